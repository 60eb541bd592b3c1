#!/usr/bin/python3
"""Plants bugs one at a time, and says which test notices each: mutations.py BUILD [NAME]...

BUILD is a configured build folder, as build/cpu. For each bug one text of one source is replaced,
the test program is built and the source restored; the bug counts as caught if a test case fails.
The checkout must be clean. Ends with code 1 if a bug goes unnoticed.
"""

import argparse
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclass
class Bug:
    name: str
    file: str
    right: str  # stands once in the file
    wrong: str
    test: str  # the program that must fail
    cases: str = "*"  # doctest's pattern of test cases


BUGS = [
    Bug(
        "batch norm's momentum weighs the past",
        "kernels/reference.cpp",
        "running_mean[c] += momentum * (mean[c]",
        "running_mean[c] += (1 - momentum) * (mean[c]",
        "test_models",
    ),
    Bug(
        "the variance is not unbiased",
        "engine/cpu/backend.cpp",
        "static_cast<float>(count / (count - 1))",
        "static_cast<float>(count / count)",
        "test_models_cpu",
    ),
    Bug(
        "the loss scale falls to a quarter",
        "kernels/update.h",
        "s.scale *= 0.5f;",
        "s.scale *= 0.25f;",
        "test_engine",
        "*scale*",
    ),
    Bug(
        "random numbers do not depend on the sample",
        "kernels/random.h",
        "c1 = key.position,",
        "c1 = 0,",
        "test_kernels",
    ),
    Bug(
        "the gradient of a gate lacks a factor",
        "kernels/reference.cpp",
        "gate.dz_h[nc + i] * g * (1 - g);",
        "gate.dz_h[nc + i] * g;",
        "test_steps",
        "*finite differences*",
    ),
    Bug(
        "NaN is lost in a maximum",
        "kernels/operand.h",
        "return x < R(0) ? R(0) : x;",
        "return x > R(0) ? x : R(0);",
        "test_kernels",
    ),
    Bug(
        "a cosine ends half way",
        "engine/schedule.cpp",
        "std::cos(std::numbers::pi * part)",
        "std::cos(std::numbers::pi / 2 * part)",
        "test_engine",
        "*schedule*",
    ),
    Bug(
        "a checkpoint's tensors are not compared with their digest",
        "tools/train/checkpoint.cpp",
        "require(text(kDigest) == c.digest,",
        "require(!text(kDigest).empty(),",
        "test_tools",
    ),
    Bug(
        "classes are not in order",
        "io/data/dataset.cpp",
        "    std::ranges::sort(names);",
        "    std::ranges::reverse(names);",
        "test_io_data",
    ),
    Bug(
        "an orientation of Exif is another one",
        "io/images/exif.cpp",
        "const bool swap = orientation >= 5;",
        "const bool swap = orientation > 5;",
        "test_images",
    ),
    Bug(
        "a tensor may read one element beyond its storage",
        "io/weights/state_dict.cpp",
        "return last < tensor.storage.visible;",
        "return last <= tensor.storage.visible;",
        "test_weight_files",
    ),
    Bug(
        "entries of an archive may overlap",
        "io/weights/zip.cpp",
        "spans[i].first - spans[i - 1].first >= spans[i - 1].second",
        "spans[i].first >= spans[i - 1].first",
        "test_weight_files",
    ),
    Bug(
        "the rows of a head keep their places",
        "tools/score/model_file.cpp",
        "tensor.bytes.data() + rows[i] * bytes",
        "tensor.bytes.data() + i * bytes",
        "test_tools",
    ),
    Bug(
        "a flag's range ends one late",
        "tools/cli/options.cpp",
        "static_cast<double>(value) > range.most)",
        "static_cast<double>(value) > range.most + 1)",
        "test_tools",
    ),
    Bug(
        "an evaluation overwrites what features are read from",
        "engine/plan.cpp",
        "if (head.pool) data_[head.pool->in.at.buffer].life.use(clock_.end());",
        "",
        "test_engine",
        "*plans*",
    ),
    Bug(
        "a sum's gradient is read scaled after others have added to it",
        "engine/graph.cpp",
        "if (produced && !summed && other->plain() &&",
        "if (false && other->plain() &&",
        "test_engine",
        "*random graphs*",
    ),
    Bug(
        "a sum's gradient is read without the scale",
        "kernels/operand.h",
        "if (scaled) g *= norm.scale();",
        "if (scaled) g *= R(1);",
        "test_steps",
        "*finite differences*",
    ),
    Bug(
        "a map is enlarged between the middles of its corners",
        "tools/predict/activation_map.cpp",
        "(at + 0.5) * from / to - 0.5",
        "double(at) * from / to",
        "test_predict",
    ),
    Bug(
        "the mean over views is taken of one view",
        "tools/predict/views.cpp",
        "if (view & 1) column = side - 1 - column;",
        "",
        "test_predict",
    ),
]


def run(command):
    return subprocess.run(command, cwd=ROOT, text=True, errors="replace", capture_output=True)


def build(folder, target):
    return run(["cmake", "--build", folder, "--target", target])


def failed_cases(folder, bug):
    """The names of the test cases that fail; the program's death counts as one."""
    program = pathlib.Path(folder).resolve() / "bin" / bug.test
    result = run([str(program), f"--test-case={bug.cases}", "--no-intro", "--no-colors=true"])
    if result.returncode in (0, 77):
        return []
    cases = re.findall(r"^TEST CASE:\s*(.*)$", result.stdout, re.MULTILINE)
    return sorted(set(cases)) or [f"the program ends with code {result.returncode}"]


def try_bug(folder, bug):
    """Why the bug counts as unnoticed, or None; prints who noticed it."""
    path = ROOT / bug.file
    source = path.read_text()
    if source.count(bug.right) != 1:
        return f"'{bug.right}' stands {source.count(bug.right)} times in {bug.file}"
    times = path.stat()
    try:
        path.write_text(source.replace(bug.right, bug.wrong))
        built = build(folder, bug.test)
        if built.returncode:
            return "does not compile:\n" + built.stdout[-2000:]
        cases = failed_cases(folder, bug)
    finally:
        path.write_text(source)
    if not cases:
        return f"no test of {bug.test} fails"
    print(f"caught: {bug.name} ({bug.file}) by {bug.test}: {cases[0]}"
          + (f" and {len(cases) - 1} more" if len(cases) > 1 else ""), flush=True)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("name", nargs="*", help="parts of the bugs' names; none: all")
    options = parser.parse_args()
    if run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout:
        sys.exit("the checkout is not clean")
    chosen = [bug for bug in BUGS
              if not options.name or any(part in bug.name for part in options.name)]
    for test in sorted({bug.test for bug in chosen}):
        built = build(options.build, test)
        if built.returncode:
            sys.exit(f"{test} cannot be built:\n{built.stdout[-2000:]}")
    for bug in chosen:
        if cases := failed_cases(options.build, bug):
            sys.exit(f"{bug.test} fails without any bug: {cases[0]}")
    unnoticed = 0
    for bug in chosen:
        if why := try_bug(options.build, bug):
            unnoticed += 1
            print(f"UNNOTICED: {bug.name}: {why}", flush=True)
    print(f"{len(chosen)} bugs planted, {len(chosen) - unnoticed} caught")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
