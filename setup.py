"""The native scan: an optional library behind a C interface, built with the package where there is GCC or Clang.

Everything else about the package is in pyproject.toml.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

# Without a compiler the installation goes on: `diffusionpose doctor` says which scan serves.
scan = Extension(
    "diffusionpose._scan",
    sources=["csrc/selective_scan.cpp"],
    depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
    language="c++",
    extra_compile_args=[
        "-O3",
        "-std=c++17",
        "-pthread",
        "-fvisibility=hidden",
        "-Wno-maybe-uninitialized",
    ],
    extra_link_args=["-pthread", "-ldl"],
    optional=True,
    py_limited_api=True,
)

setup(
    ext_modules=[] if sys.platform == "win32" else [scan],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
