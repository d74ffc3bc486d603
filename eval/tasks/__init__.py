"""The benchmark tasks by name.

A task is one file that defines ``TASK = EvalTask(...)`` (`eval.task`): which items a data set's own files hold, how a
model is asked about one, and by which rules the answers are scored. Adding one is that file and one line here; a task
is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from emollama.errors import UnknownNameError
from eval.task import EvalTask

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "ferplus": "eval.tasks.ferplus:TASK",
        "emodb": "eval.tasks.emodb:TASK",
        "goemotions": "eval.tasks.goemotions:TASK",
        "emobank": "eval.tasks.emobank:TASK",
        "xed": "eval.tasks.xed:TASK",
        "mer2023_multi": "eval.tasks.mer2023:MULTI",
        "mer2023_noise": "eval.tasks.mer2023:NOISE",
        "mer2023_semi": "eval.tasks.mer2023:SEMI",
        "mer2024_semi": "eval.tasks.mer2024:SEMI",
        "mer2024_noise": "eval.tasks.mer2024:NOISE",
        "mer2024_ov": "eval.tasks.mer2024:OV",
        "mer2025_fg": "eval.tasks.mer2025:FG",
        "emer": "eval.tasks.emer:TASK",
        "dfew": "eval.tasks.dfew:TASK",
        "mafw": "eval.tasks.mafw:TASK",
        "meld": "eval.tasks.meld:TASK",
        "iemocap": "eval.tasks.iemocap:TASK",
        "iemocap6": "eval.tasks.iemocap:SIX",
        "cremad": "eval.tasks.cremad:TASK",
        "ravdess": "eval.tasks.ravdess:TASK",
        "affectnet": "eval.tasks.affectnet:TASK",
        "abaw_expr": "eval.tasks.abaw:EXPR",
        "abaw_va": "eval.tasks.abaw:VA",
        "abaw_au": "eval.tasks.abaw:AU",
        "abaw_ce": "eval.tasks.abaw:CE",
        "abaw_emi": "eval.tasks.abaw:EMI",
        "emobench_m": "eval.tasks.emobench_m:TASK",
        "unibench_mer2023": "eval.tasks.unibench:MER2023",
        "unibench_mer2024": "eval.tasks.unibench:MER2024",
        "unibench_meld": "eval.tasks.unibench:MELD",
        "unibench_iemocap": "eval.tasks.unibench:IEMOCAP",
        "ovmerd": "eval.tasks.unibench:OVMERD",
    }
)


def load_task(name: str) -> EvalTask:
    """Return a task; an unknown name raises `UnknownNameError` with the list."""
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    module, attribute = TASKS[name].split(":")
    task: EvalTask = getattr(import_module(module), attribute)
    return task


def describe_task(name: str) -> str:
    """Return a task's title, read from its module's text: nothing that the module needs is imported."""
    import ast
    from importlib.util import find_spec

    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    module, attribute = TASKS[name].split(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if any(isinstance(target, ast.Name) and target.id == attribute for target in node.targets):
            for keyword in node.value.keywords:
                if keyword.arg == "title" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return (ast.get_docstring(tree) or "").partition("\n")[0]
