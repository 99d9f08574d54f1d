# What cffi generates: its types come from the headers of native/ when the extension is compiled, so they are Any here.
from typing import Any

ffi: Any
lib: Any
