"""The disk cache of kernels: never a stale one, never an error, never another user's."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

import numbaconv
from numbaconv import cache_files, kernel_cache
from numbaconv.cache_files import Place, StampedFile

PACKAGE = Path(numbaconv.__file__).parent
NOBODY = 54321  # a user id that owns nothing
unix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user, to have no permissions"
)

# Prints the result, and how many kernels were compiled and how many loaded.
CODE = "import answer; print(answer.answer(20), *answer.counts())"
KERNEL = """
from numbaconv.jit import compile_counts as counts, kernel

@kernel
def answer(x):
    return 2 * x + {0}
"""
COMPILED, LOADED = "42 1 0", "42 0 1"


@pytest.fixture
def work(tmp_path):
    """A directory, open to every user, with the module `answer` of one tiny kernel."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-")) or folder == tmp_path:
            folder.chmod(0o755)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "answer.py").write_text(KERNEL.format(2))
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.fixture
def start(work, forked):
    """``start(code, …)``: what processes left that import `answer`."""

    def call(code=CODE, **options):
        return forked(code, paths=[work / "source"], **{"HOME": str(work / "home"), **options})

    return call


@pytest.fixture
def answer(start):
    """``answer(…)``: (what such a process prints, its lines on stderr); it must not fail."""

    def call(*args, **kwargs):
        (done,) = start(*args, **kwargs)
        assert done.code == 0, done.out + done.err
        return done.out.strip(), done.err.splitlines()

    return call


def kernels(folder):
    return sorted(folder.rglob("*.nbc"))


# --- staleness --------------------------------------------------------------------------------------------


def test_editing_a_helper_in_another_file_is_seen_by_cached_kernels(run_python, tmp_path):
    """numba stamps a cached kernel with its own file only; ours with every file that kernels come from."""
    shutil.copytree(PACKAGE, tmp_path / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
    helper = tmp_path / "numbaconv" / "cpu" / "edited_helper.py"
    user = tmp_path / "numbaconv" / "cpu" / "edited_kernel.py"
    user.write_text(
        "from ..jit import kernel\nfrom .edited_helper import helper\n\n@kernel\ndef answer(x):\n    return helper(x)\n"
    )
    body = "from ..jit import kernel\n\n@kernel\ndef helper(x):\n    return x + {}\n"
    code = "from numbaconv.cpu.edited_kernel import answer; print(answer(1), sum(answer.stats.cache_hits.values()))"

    cache = tmp_path / "cache"
    cache.mkdir()

    def answer_with(increment):
        helper.write_text(body.format(increment))
        os.utime(helper, ns=(helper.stat().st_atime_ns, 10**18))  # the same time stamp and size each time
        return run_python(code, cwd=cache, NUMBA_CACHE_DIR=str(cache), PYTHONPATH=str(tmp_path)).split()

    assert answer_with(1) == ["2", "0"]
    assert answer_with(1) == ["2", "1"]  # unchanged: from the cache
    assert answer_with(5) == ["6", "0"]
    assert answer_with(1) == ["2", "0"]


def test_every_file_that_kernels_are_compiled_from_is_in_the_stamp():
    """What files of kernels import of this package, other than pure Python: all of it is stamped."""
    from test_architecture import FILES, imports

    sources = [name for name in FILES if name.startswith("cpu/") or name in kernel_cache.CPU_SOURCES]
    used = {module.split(".")[1] for name in sources for module in imports(name) if module.startswith("numbaconv.")}
    stamped = {name.removesuffix(".py") for name in kernel_cache.CPU_SOURCES}
    pure = {"algorithm", "arguments", "cache_files", "compile_notice", "contract", "errors", "shapes"}
    assert used <= stamped | pure
    for name in FILES:
        if name.removesuffix(".py") in pure:
            assert not any(module.startswith("numbaconv.jit") for module in imports(name)), f"{name} has kernels"


def test_another_source_cpu_numba_or_setting_compiles_anew(answer, work):
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    assert answer(**cache)[0] == COMPILED
    assert answer(**cache)[0] == LOADED
    assert answer(**cache, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="+sse2")[0] == COMPILED
    assert answer(**cache, NUMBA_OPT="1")[0] == COMPILED
    other_numba = "import numba; numba.__version__ = '0.0.1'\n"
    assert answer(other_numba + CODE, **cache)[0] == COMPILED
    assert answer(other_numba + CODE, **cache)[0] == LOADED
    source = work / "source" / "answer.py"
    source.write_text(KERNEL.format(4))
    assert answer(**cache)[0] == "44 1 0"


# --- damage -----------------------------------------------------------------------------------------------

DAMAGES = {
    "empty": lambda path, content: path.write_bytes(b""),
    "header": lambda path, content: path.write_bytes(content[:40]),
    "half": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "one byte short": lambda path, content: path.write_bytes(content[:-1]),
    "one bit": lambda path, content: path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]),
    "random": lambda path, content: path.write_bytes(bytes(i * 37 % 256 for i in range(1000))),
    "longer": lambda path, content: path.write_bytes(content + b"x"),
    "no permission": lambda path, content: path.chmod(0),
    "directory": lambda path, content: (path.unlink(), path.mkdir(), (path / "file").write_bytes(b"")),
    "dangling link": lambda path, content: (path.unlink(), path.symlink_to("nowhere")),
    "pipe": lambda path, content: (path.unlink(), os.mkfifo(path)),
}


@unix
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_for_nothing_and_is_replaced(damage, tmp_path):
    file = StampedFile(tmp_path / "kernel.nbc", b"stamp" * 4, frozenset({os.geteuid()}))
    file.write(b"content" * 20)
    DAMAGES[damage](file.path, file.path.read_bytes())
    if damage != "no permission" or os.geteuid() != 0:
        assert file.read() is None
    file.write(b"content" * 20)
    assert file.read() == b"content" * 20
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.nbc"]


def test_another_stamp_counts_for_nothing(tmp_path):
    owners = frozenset({os.geteuid()} if hasattr(os, "geteuid") else ())
    StampedFile(tmp_path / "kernel.nbc", b"stamp" * 4, owners).write(b"content")
    assert StampedFile(tmp_path / "kernel.nbc", b"other" * 4, owners).read() is None


def test_a_kernel_whose_file_is_damaged_is_compiled_and_its_file_repaired(answer, work):
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    assert answer(**cache) == (COMPILED, [])
    (file,) = kernels(work)
    file.write_bytes(file.read_bytes()[:-100])
    assert answer(**cache) == (COMPILED, [])
    assert answer(**cache) == (LOADED, [])
    assert kernels(work) == [file]


def test_content_that_numba_cannot_rebuild_is_compiled_anew(answer, work):
    """Whole and with the right stamp, but not what this numba reads."""
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    spoilt = "import numbaconv.kernel_cache as k; k.dumps = lambda value: b'no pickle'\n"
    assert answer(spoilt + CODE, **cache)[0] == COMPILED
    assert answer(**cache)[0] == COMPILED
    assert answer(**cache)[0] == LOADED


def test_a_writer_that_is_killed_leaves_the_old_file_or_none(start, answer, work):
    """Killed with half of its bytes on the disk."""
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    killed = (
        "import os, signal\nreplace = os.replace\ndef die(source, target):\n"
        "    os.truncate(source, os.path.getsize(source) // 2); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = die\nimport answer; answer.answer(20)"
    )
    (done,) = start(killed, **cache)
    assert done.code == -signal.SIGKILL
    assert not kernels(work)
    assert list(work.rglob("*.tmp"))
    assert answer(**cache) == (COMPILED, [])
    assert answer(**cache) == (LOADED, [])


def test_two_processes_race_on_an_empty_cache(start, answer, work):
    """Both begin to compile when both are ready; both are right, and leave one whole file."""
    code = (
        "import answer, os, pathlib, time\n"
        "(pathlib.Path(os.environ['HERE']) / str(os.getpid())).touch()\n"
        "while len(list(pathlib.Path(os.environ['HERE']).iterdir())) < 2: time.sleep(0.001)\n"
        "print(answer.answer(20))"
    )
    (work / "ready").mkdir()
    environment = {"NUMBA_CACHE_DIR": str(work / "cache"), "HERE": str(work / "ready")}
    for done in start(code, times=2, **environment):
        assert done == (0, "42\n", "")
    (file,) = kernels(work)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert answer(NUMBA_CACHE_DIR=str(work / "cache")) == (LOADED, [])


# --- places -----------------------------------------------------------------------------------------------


def test_numba_s_variable_wins_over_every_other_place(answer, work):
    assert answer(NUMBA_CACHE_DIR=str(work / "cache"))[0] == COMPILED
    assert all(work / "cache" in file.parents for file in kernels(work))
    assert answer()[0] == COMPILED, "beside the source: its own place"
    assert len(kernels(work / "source" / "__pycache__")) == 1


def test_a_file_where_the_directory_should_be_costs_the_cache_and_one_line(answer, work):
    (work / "cache").write_bytes(b"")
    out, err = answer(
        "import answer; print(answer.answer(20), answer.answer(1.5))", NUMBA_CACHE_DIR=f"{work / 'cache'}"
    )
    assert out == "42 5.0"
    assert len(err) == 1, "two kernels, one line"
    assert str(work / "cache") in err[0]
    assert "NUMBA_CACHE_DIR" in err[0]
    assert answer(NUMBA_CACHE_DIR=str(work / "cache"), NUMBACONV_QUIET="1") == (COMPILED, [])
    assert answer("import warnings; warnings.simplefilter('error')\n" + CODE, NUMBA_CACHE_DIR=f"{work / 'cache'}")[1]


def test_a_full_disk_costs_the_cache_and_one_line(answer, work):
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    )
    out, err = answer(limited + CODE, NUMBA_CACHE_DIR=str(work / "cache"))
    assert (out, len(err)) == (COMPILED, 1)
    assert not [path for path in (work / "cache").rglob("*") if path.is_file()]


@as_root
def test_read_only_source_and_home(answer, work):
    """Another user's source: the home takes the kernels; where that is read-only too, one line says that none does."""
    os.chown(work / "home", NOBODY, NOBODY)
    assert answer(user=NOBODY) == (COMPILED, [])
    assert answer(user=NOBODY) == (LOADED, [])
    (file,) = kernels(work)
    root = work / "home" / ".cache" / "numbaconv"
    assert root in file.parents
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    shutil.rmtree(work / "home")
    (work / "home").mkdir()
    out, err = answer(user=NOBODY)
    assert (out, len(err)) == (COMPILED, 1)
    assert "cannot be kept for later processes" in err[0]


@as_root
def test_root_s_warm_cache_in_the_package_serves_other_users(answer, work):
    """An image's kernels are compiled when it is built, by root, and loaded by whoever runs it."""
    assert answer() == (COMPILED, [])
    assert answer(user=NOBODY) == (LOADED, [])
    assert answer(user=NOBODY, NUMBA_CACHE_DIR=str(work / "cache"))[0] == COMPILED, "and cannot write there"
    assert answer(NUMBA_CACHE_DIR=str(work / "cache"))[0] == COMPILED
    assert answer(user=NOBODY, NUMBA_CACHE_DIR=str(work / "cache")) == (LOADED, [])


# --- trust ------------------------------------------------------------------------------------------------


@unix
@pytest.mark.parametrize("loose", ["", "kernels"])
def test_a_directory_that_others_can_write_is_not_used(loose, answer, work):
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    assert answer(**cache)[0] == COMPILED
    folder = kernels(work)[0].parent if loose else work / "cache" / "numbaconv"
    folder.chmod(0o777)
    out, err = answer(**cache)
    assert out == COMPILED
    assert len(err) == 1
    assert f"{folder} can be written by other users" in err[0]
    folder.chmod(0o755)
    assert answer(**cache) == (LOADED, [])


@as_root
def test_another_user_s_directory_or_file_is_not_used(answer, work):
    cache = {"NUMBA_CACHE_DIR": str(work / "cache")}
    assert answer(**cache)[0] == COMPILED
    (file,) = kernels(work)
    os.chown(file, NOBODY, NOBODY)
    assert answer(**cache) == (COMPILED, []), "and replaced"
    assert answer(**cache) == (LOADED, [])
    os.chown(file.parent, NOBODY, NOBODY)
    out, err = answer(**cache)
    assert (out, len(err)) == (COMPILED, 1)
    assert "belongs to another user" in err[0]


@unix
def test_a_file_that_others_can_write_is_not_read(tmp_path):
    file = StampedFile(tmp_path / "kernel.nbc", b"stamp", frozenset({os.geteuid()}))
    file.write(b"content")
    for mode, expected in ((0o666, None), (0o660, None), (0o646, None), (0o644, b"content")):
        file.path.chmod(mode)
        assert file.read() == expected
    assert StampedFile(file.path, b"stamp", frozenset({NOBODY})).read() is None


@unix
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o775), (0o022, 0o755), (0o000, 0o777)])
def test_pycache_is_trusted_as_far_as_the_source_beside_it(umask, mode, tmp_path, monkeypatch):
    """Where the umask leaves directories to the group, as on many systems, Python's own cache is no looser."""
    monkeypatch.setattr(cache_files, "chosen_folder", lambda: "")
    (tmp_path / "source").mkdir()
    (tmp_path / "source").chmod(mode)
    source = tmp_path / "source" / "kernel.py"
    source.write_bytes(b"")
    before = os.umask(umask)
    try:
        place = cache_files.places.__wrapped__(str(source))[0]
        place.make()
        assert place.refusal() == ""
        file = StampedFile(place.folder / "kernel.nbc", b"stamp", place.owners)
        file.write(b"content")
        assert file.read() == b"content"
    finally:
        os.umask(before)
    (tmp_path / "source").chmod(0o755)
    place = Place(place.folder, place.ours, place.mode, place.owners, 0o755)
    place.folder.chmod(0o777)
    assert "can be written by other users" in place.refusal()
