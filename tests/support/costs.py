"""The cost of a piece of code, in a measure that does not depend on the machine."""

from __future__ import annotations

import sys
from types import FrameType, ModuleType
from typing import Any


class Lines:
    """Count the lines of some modules that are run."""

    def __init__(self, *modules: ModuleType) -> None:
        self._files = {module.__file__ for module in modules}
        self.count = 0

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        self.count += event == "line"
        return self._trace
