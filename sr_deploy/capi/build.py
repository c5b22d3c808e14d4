"""Build the C library for the running Python: the library, its header, and files for pkg-config and CMake.

    DIR/include/sr_deploy.h
    DIR/lib/libsr_deploy.so            (.dylib on macOS; DIR/bin/sr_deploy.dll and its .lib on Windows)
    DIR/lib/pkgconfig/sr_deploy.pc
    DIR/lib/cmake/sr_deploy/sr_deploy-config.cmake, -config-version.cmake

`sr_deploy.c` is compiled with the machine's C compiler; nothing is downloaded. The folder may be moved. The
Python it was built with has to stay, or SR_DEPLOY_PYTHON has to name another Python of the same version.
"""

from __future__ import annotations

import os
import shlex
import shutil
import string
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sr_deploy
from sr_deploy.errors import MissingRuntimeError, OutputError
from sr_deploy.system.files import write_whole

_HERE = Path(__file__).parent.absolute()
_PACKAGES = _HERE.parent.parent
"""Folder that contains this package. The library puts it first on sys.path."""
_COMPILERS = ("cc", "gcc", "clang")
"""Commands that are tried in this order if neither --compiler nor CC names one."""
_PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
includedir=${{prefix}}/include
libdir=${{prefix}}/lib

Name: sr_deploy
Description: Super-resolution networks for programs in C and C++
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -lsr_deploy{rpath}
"""
"""Template of the .pc file. Paths are relative to the file, so the folder can be moved."""
_CMAKE = """\
# find_package(sr_deploy) gives the target sr_deploy::sr_deploy.
get_filename_component(_sr_deploy_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
if(NOT TARGET sr_deploy::sr_deploy)
  add_library(sr_deploy::sr_deploy SHARED IMPORTED)
  set_target_properties(sr_deploy::sr_deploy PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${{_sr_deploy_prefix}}/include"
    IMPORTED_LOCATION "${{_sr_deploy_prefix}}/{library}"{implib})
endif()
unset(_sr_deploy_prefix)
"""
"""Template of the CMake package. Paths are relative to the file, so the folder can be moved."""
_CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""
"""Template of CMake's version check: any version that is not older than asked for fits."""


@dataclass(frozen=True, kw_only=True)
class BuiltLibrary:
    """Absolute paths of a built library's files."""

    folder: Path
    """Folder of the build."""
    header: Path
    library: Path
    """The shared library."""
    pkg_config: Path
    """The .pc file."""
    cmake: Path
    """Folder of the two CMake files."""


def build_library(folder: Path, *, compiler: str | None = None, flags: Sequence[str] = ()) -> BuiltLibrary:
    """Build the C library into `folder`, which is created if needed. Files of an earlier build are
    replaced.

    `compiler` is a command, with arguments if it needs some. The default is the environment variable CC,
    else the first of cc, gcc and clang (cl on Windows). `flags` are added after the built-in ones, such as
    "-fsanitize=address"; paths in them must be absolute.

    Raises MissingRuntimeError if there is no compiler, no Python.h or no Python library to link with, and
    OutputError if the folder cannot be written or the compiler fails.
    """
    command = find_compiler(compiler)
    include, link = python_headers(), python_library()
    # The compiler runs in a temporary folder, where a relative path would mean another place.
    folder = folder.absolute()
    library = folder / _library_name()
    built = BuiltLibrary(
        folder=folder,
        header=folder / "include" / "sr_deploy.h",
        library=library,
        pkg_config=folder / "lib" / "pkgconfig" / "sr_deploy.pc",
        cmake=folder / "lib" / "cmake" / "sr_deploy",
    )
    try:
        for place in (built.header.parent, library.parent, built.pkg_config.parent, built.cmake):
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
            compiled = Path(work) / library.name
            _compile(command, include, link, compiled, flags)
            os.replace(compiled, library)
            implib = compiled.with_suffix(".lib")
            if implib.exists():
                os.replace(implib, folder / "lib" / implib.name)
        for path, text in _generated_files(built).items():
            write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise OutputError(f"cannot build in {folder}: {error}; choose another folder") from error
    return built


def find_compiler(compiler: str | None = None) -> list[str]:
    """Return the command of the C compiler, chosen as `build_library` describes.

    A relative path of a program is made absolute, since the compiler runs in another folder. Raises
    MissingRuntimeError if there is none.
    """
    named = compiler or os.environ.get("CC")
    names = ("cl",) if sys.platform == "win32" else _COMPILERS
    candidates = [shlex.split(named, posix=sys.platform != "win32")] if named else [[name] for name in names]
    for command in candidates:
        if command and (found := shutil.which(command[0])):
            return command if os.path.isabs(found) else [os.path.abspath(found), *command[1:]]
    tried = named or ", ".join(names)
    raise MissingRuntimeError(
        f"the C library needs a C compiler, found none of: {tried}; install one "
        "(such as: apt install gcc; xcode-select --install), or name it with --compiler"
    )


def python_headers() -> Path:
    """Return the folder of Python.h. Raises MissingRuntimeError if it is not installed."""
    for key in ("include", "platinclude"):
        folder = Path(sysconfig.get_path(key)).absolute()
        if (folder / "Python.h").is_file():
            return folder
    raise MissingRuntimeError(
        f"the C library needs Python's headers, but there is no Python.h in {sysconfig.get_path('include')}; install "
        "them (such as: apt install python3-dev)"
    )


def python_library() -> list[str]:
    """Return the arguments that link with this Python's shared library and let a program find it when it
    starts.

    Raises MissingRuntimeError if this Python has no shared library.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform == "win32":
        return [str(Path(sys.base_prefix) / "libs" / f"python{version.replace('.', '')}.lib")]
    for folder in _python_library_folders():
        for name in (sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("INSTSONAME")):
            library = folder / str(name)
            if library.is_file() and library.suffix != ".a":
                return [str(library), f"-Wl,-rpath,{folder}"]
    raise MissingRuntimeError(
        f"the C library needs Python {version} as a shared library, but {sys.executable} has none; install it "
        "(such as: apt install python3-dev), or use a Python configured with --enable-shared"
    )


def _python_library_folders() -> list[Path]:
    folders = [Path(sys.base_prefix) / "lib"]
    if place := sysconfig.get_config_var("LIBDIR"):
        folders += [Path(place), Path(place) / (sysconfig.get_config_var("MULTIARCH") or "")]
    if framework := sysconfig.get_config_var("PYTHONFRAMEWORKPREFIX"):  # macOS
        folders.append(Path(framework))
    return [folder.absolute() for folder in folders]


def _library_name() -> str:
    """Return the path of the library, relative to the folder of a build."""
    if sys.platform == "win32":
        return "bin/sr_deploy.dll"
    return "lib/libsr_deploy.dylib" if sys.platform == "darwin" else "lib/libsr_deploy.so"


def _compile(
    command: Sequence[str], include: Path, link: Sequence[str], library: Path, flags: Sequence[str]
) -> None:
    """Compile and link `library`, an absolute path, with a generated config.h beside it. Raises
    OutputError.

    The compiler runs in the folder of `library`, because cl leaves object files in its working folder.
    """
    texts = {"SR_VERSION": sr_deploy.__version__, "SR_PYTHON": sys.executable, "SR_PACKAGES": str(_PACKAGES)}
    config = library.with_name("config.h")
    values = {name: c_string(value) for name, value in texts.items()}
    write_whole(config, config_header({**values, "SR_DEPLOY_BUILD": ""}))
    source = str(_HERE / "sr_deploy.c")
    if Path(command[0]).stem.lower() == "cl":
        ours = ["/nologo", "/std:c11", "/O2", "/LD", "/utf-8", f"/I{include}", f"/FI{config}", source]
        arguments = [*ours, *flags, "/link", *link, f"/OUT:{library}"]
    else:
        arguments = [
            "-std=c11",
            "-O2",
            "-fPIC",
            "-fvisibility=hidden",
            f"-I{include}",
            "-include",
            str(config),
        ]
        arguments += [
            source,
            "-o",
            str(library),
            *_shared_library_flags(library.name),
            *link,
            "-pthread",
            *flags,
        ]
    run_compiler([*command, *arguments], library.parent, "the C library")


def run_compiler(command: Sequence[str], folder: Path, product: str) -> None:
    """Run a command of a compiler in `folder`. Raises OutputError with its message; `product` says what it makes."""
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or "no message"
        raise OutputError(f"{command[0]} could not compile {product}: {said}; try another --compiler")


def config_header(values: Mapping[str, str]) -> bytes:
    """Return a header that defines a macro for each value."""
    lines = [f"#define {name} {value}".rstrip() for name, value in values.items()]
    return "\n".join([*lines, ""]).encode("utf-8")


def _shared_library_flags(name: str) -> list[str]:
    """Return the arguments that make a shared library which is found by its bare name."""
    if sys.platform == "darwin":
        return ["-dynamiclib", f"-Wl,-install_name,@rpath/{name}"]
    return ["-shared", f"-Wl,-soname,{name}", "-D_GNU_SOURCE", "-ldl", "-lm"]


def c_string(text: str) -> str:
    """Return `text` as a C string literal. Bytes that are not plain ASCII are written in octal."""
    plain = f"{string.ascii_letters}{string.digits}/._- :".encode()
    return '"' + "".join(chr(c) if c in plain else f"\\{c:03o}" for c in os.fsencode(text)) + '"'


def _generated_files(built: BuiltLibrary) -> dict[Path, str]:
    """Return the text of every file besides the library."""
    version = sr_deploy.__version__
    library = built.library.relative_to(built.folder).as_posix()
    windows = sys.platform == "win32"
    implib = '\n    IMPORTED_IMPLIB "${_sr_deploy_prefix}/lib/sr_deploy.lib"' if windows else ""
    rpath = "" if windows else " -Wl,-rpath,${libdir}"
    return {
        built.header: (_HERE / "sr_deploy.h").read_text(encoding="utf-8"),
        built.pkg_config: _PKG_CONFIG.format(version=version, rpath=rpath),
        built.cmake / "sr_deploy-config.cmake": _CMAKE.format(library=library, implib=implib),
        built.cmake / "sr_deploy-config-version.cmake": _CMAKE_VERSION.format(version=version),
    }
