"""What `import numbaconv` costs and loads."""

from __future__ import annotations

import json

IMPORT = """
import json, sys, time
start = time.process_time()
import numba
middle = time.process_time()
before = set(sys.modules)
import numbaconv
end = time.process_time()
from numbaconv import jit
print(json.dumps({
    "numba": middle - start,
    "numbaconv": end - middle,
    "loaded": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "cuda": [name for name in sys.modules if name.startswith("numba.cuda")],
    "signatures": jit.compiled_signatures(),
}))
"""


def test_import_is_quick_and_light(run_python, tmp_path):
    """The quickest of five, in processor time: what else the machine does is not our cost.

    With bytecode, as installed: the first run writes it.
    """
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    runs = [json.loads(run_python(IMPORT, **bytecode)) for _ in range(6)]
    seconds = min(run["numbaconv"] for run in runs)
    assert seconds <= 0.15, f"import numbaconv takes {seconds:.3f} s on top of numba's {runs[0]['numba']:.3f} s"
    for run in runs:
        assert run["signatures"] == {}, "kernels compile at their first call, never at import"
        assert run["cuda"] == [], "the CUDA backend is loaded when an array or a device name asks for it"
        extras = {"torch", "scipy", "matplotlib", "mlxtend", "hypothesis", "pytest"}
        assert not extras & set(run["loaded"])


def test_version_is_the_metadata_s(run_python):
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert run_python("import numbaconv; print(numbaconv.__version__)").strip() == project["version"]
