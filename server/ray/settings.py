"""What `emollama serve --ray` is set by beside the settings of every service: ``EMOLLAMA_RAY_*``, checked once."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class RaySettings(BaseSettings):
    """How many replicas there may be, what each may take, and where the cluster is."""

    model_config = SettingsConfigDict(env_prefix="EMOLLAMA_RAY_", env_ignore_empty=True, frozen=True, extra="forbid")

    address: str | None = Field(
        None,
        description='The cluster that this machine has joined: "auto", or host:port of its head; Ray is started on '
        "this machine alone if unset.",
    )
    name: str = Field(
        "emollama", pattern=r"^[a-z][a-z0-9-]{0,31}$", description="Name of this service among those of the cluster."
    )
    in_flight: int = Field(
        64, ge=1, description="Requests that one door has under way in the cluster at the same time."
    )

    encoders_min: int = Field(1, ge=1, description="Replicas of the encoders that are always there.")
    encoders_max: int = Field(4, ge=1, description="Most replicas of the encoders.")
    encoders_per_machine: int | None = Field(
        None, ge=1, le=100, description="Most replicas of the encoders on one machine; as many as fit if unset."
    )
    encoders_at_once: int = Field(2, ge=1, description="Clips that one replica of the encoders reads at the same time.")
    encoders_cpus: float = Field(1.0, ge=0, description="Cores that Ray sets aside for a replica of the encoders.")
    encoders_gpus: float = Field(0.0, ge=0, description="GPUs, or a part of one, for a replica of the encoders.")
    encoders_device: str = Field("cpu", min_length=1, description="Torch device of the encoders.")

    decoder_min: int = Field(1, ge=1, description="Replicas of the decoder that are always there.")
    decoder_max: int = Field(4, ge=1, description="Most replicas of the decoder.")
    decoder_per_machine: int | None = Field(
        None, ge=1, le=100, description="Most replicas of the decoder on one machine; as many as fit if unset."
    )
    decoder_at_once: int = Field(
        16, ge=1, description="Requests that one replica of the decoder answers at the same time, as one batch."
    )
    decoder_cpus: float = Field(1.0, ge=0, description="Cores that Ray sets aside for a replica of the decoder.")
    decoder_gpus: float = Field(0.0, ge=0, description="GPUs, or a part of one, for a replica of the decoder.")

    upscale_seconds: float = Field(10.0, ge=0, description="Time of too much work before replicas are added.")
    downscale_seconds: float = Field(300.0, ge=0, description="Time of too little work before replicas are removed.")
    drain_seconds: float = Field(120.0, ge=0, description="Time that a replica gets to end what it has begun.")
    start_seconds: float = Field(
        600.0, gt=0, description="Time in which the first replicas must have loaded the model."
    )

    @model_validator(mode="after")
    def _check(self) -> RaySettings:
        for name in ("encoders", "decoder"):
            least, most = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if least > most:
                raise ValueError(f"{name}_min is {least}; allowed: at most {name}_max, which is {most}")
        if self.encoders_device.startswith("cuda") and not self.encoders_gpus:
            raise ValueError(f"encoders_device is {self.encoders_device!r} and encoders_gpus is 0; set a part of a GPU")
        return self
