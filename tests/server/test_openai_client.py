"""The official openai client lists the models, and understands our errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

openai = pytest.importorskip("openai")


def test_models_are_listed_and_unknown_ones_are_not_found(live: Callable[..., Any]) -> None:
    service = live()
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        names = [model.id for model in client.models.list()]
        assert names == ["nano"]
        assert client.models.retrieve("nano").object == "model"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("mega")
    assert caught.value.code == "model_not_found"
