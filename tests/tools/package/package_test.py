"""The Python package on a run of a few steps, the wheel and the SBOM of a small bundle.

    ENGINE_PROGRAM=build/cpu/bin/engine python3 tests/tools/package/package_test.py [NAME...]

What lacks a module is skipped and printed; if everything is, it ends with 77.
"""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "tools" / "package"
sys.path.insert(0, str(PACKAGE))
sys.dont_write_bytecode = True

import debian_copyright  # noqa: E402
import engine  # noqa: E402
import sbom  # noqa: E402
import wheel  # noqa: E402
from engine.program import flags_of, message_of  # noqa: E402


def has(module):
    return importlib.util.find_spec(module) is not None


class Quiet(unittest.TestCase):
    """What the program says is kept."""

    def setUp(self):
        self.said = io.StringIO()
        redirection = redirect_stderr(self.said)
        redirection.__enter__()
        self.addCleanup(redirection.__exit__, None, None, None)


class CommandLine(Quiet):
    def test_keywords_are_flags(self):
        self.assertEqual(
            flags_of(batch_size=64, lr=1e-3, sync_bn=True, fast_decode=False, out=Path("a b"),
                     ranks=[1, 2], model=None, b=8, in_="x", name="--odd"),
            ["--batch-size=64", "--lr=0.001", "--sync-bn=true", "--fast-decode=false", "--out=a b",
             "--ranks=1,2", "-b=8", "--in=x", "--name=--odd"])

    def test_a_message_is_what_the_program_said(self):
        lines = ["engine: not this", "step 3", "engine train: no such folder", "  and more"]
        self.assertEqual(message_of(lines, "train"), "no such folder\n  and more")
        self.assertEqual(message_of(["a", "b"], "train"), "a\nb")
        self.assertEqual(message_of([], "train"), "it said nothing")

    def test_errors_are_exceptions(self):
        for call, code, kind, message in (
                (lambda: engine.call("summary", mdoel="x"), 2, "usage", "did you mean --model"),
                (lambda: engine.call("nothing"), 2, "usage", "unknown verb 'nothing'"),
                (lambda: engine.train("/no/where", dry_run=True), 3, "data", "/no/where"),
                (lambda: engine.predict("a.png", "/no/where.pth"), 4, "weights", "no/where.pth")):
            with self.assertRaises(engine.EngineError) as raised:
                call()
            error = raised.exception
            self.assertEqual((error.exit_code, error.kind), (code, kind))
            self.assertIn(message, error.message)
            self.assertFalse(error.message.startswith("engine"))
            copy = pickle.loads(pickle.dumps(error))
            self.assertEqual((copy.exit_code, str(copy)), (code, str(error)))

    def test_a_program_that_is_not_there_is_named(self):
        with mock.patch.dict(os.environ, ENGINE_PROGRAM="/no/engine"):
            with self.assertRaisesRegex(FileNotFoundError, "/no/engine"):
                engine.version()

    def test_a_killed_program_is_told_from_one_that_ends(self):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "engine"
            script.write_text("#!/bin/sh\nkill -9 $$\n")
            script.chmod(0o755)
            with mock.patch.dict(os.environ, ENGINE_PROGRAM=str(script)):
                with self.assertRaises(engine.EngineError) as raised:
                    engine.version()
        self.assertEqual(raised.exception.exit_code, 128 + signal.SIGKILL)
        self.assertEqual(raised.exception.kind, "signal")

    def test_the_version_is_semantic_and_stands_in_one_place(self):
        version = engine.version()["version"]
        self.assertRegex(version, r"^\d+\.\d+\.\d+$")
        self.assertTrue(engine.call("--version").startswith(f"engine {version} "))
        self.assertIn(f"VERSION {version} ", (ROOT / "CMakeLists.txt").read_text())
        self.assertIn(f"\nversion: {version}\n", (PACKAGE / "CITATION.cff").read_text())
        changes = re.findall(r"^## (\S+?),? ", (PACKAGE / "CHANGELOG.md").read_text() + " ", re.M)
        self.assertEqual(changes[0], version)


class Training(Quiet):
    """One run of two epochs on drawn digits, which all tests of it share."""

    FLAGS = dict(model="mnist_cnn", image_size=12, batch_size=8, device="cpu", threads=1, workers=1,
                 augment="none", log_every=1)

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        with redirect_stderr(io.StringIO()):
            engine.call("draw", "digits", out=cls.folder / "digits", train=4, val=2)
            cls.run_ = engine.train(cls.folder / "digits", epochs=2, out=cls.folder / "run",
                                    **cls.FLAGS)

    def test_a_run_as_values(self):
        run = self.run_
        self.assertEqual(run.folder, self.folder / "run")
        self.assertEqual(run.args["batch_size"], "8")
        self.assertEqual(run.classes, [str(digit) for digit in range(10)])
        self.assertEqual(run.environment["engine"], engine.version()["version"])
        self.assertTrue(run.best.is_file() and run.last.is_file())
        score = run.scores["val"]
        self.assertEqual(score["samples"], 20)
        with self.assertRaisesRegex(ValueError, "has val, not test"):
            run.roc("test")
        with self.assertRaises(FileNotFoundError):
            engine.Run(self.folder / "nothing")

    def check_tables(self, labels_of, total_of):
        run = self.run_
        self.assertEqual(list(run.metrics["epoch"]), [1, 2])
        self.assertIsInstance(list(run.metrics["val/loss"])[0], float)
        self.assertEqual(list(run.events("epoch")["epoch"]), [1, 2])
        self.assertLessEqual({"step", "loss"}, set(run.steps))
        predictions = run.predictions()
        self.assertEqual(sorted(predictions["label"]), sorted(2 * run.classes))
        self.assertEqual(list(run.per_class()["name"]), run.classes)
        self.assertIn("(micro)", list(run.roc()["class"]))
        self.assertEqual(labels_of(run.confusion()), run.classes)
        self.assertEqual(total_of(run.confusion()), 20)

    def test_tables_are_lists_without_pandas(self):
        with mock.patch.dict(sys.modules, {"pandas": None}):
            self.assertIsInstance(self.run_.metrics, dict)
            self.check_tables(lambda table: table["classes"],
                              lambda table: sum(map(sum, table["counts"])))

    @unittest.skipUnless(has("pandas"), "data frames need pandas")
    def test_tables_are_data_frames(self):
        import pandas
        self.assertIsInstance(self.run_.metrics, pandas.DataFrame)
        self.check_tables(lambda table: list(table.index), lambda table: table.to_numpy().sum())

    def test_console_scripts(self):
        def ends(function, *arguments):
            return subprocess.run(
                [sys.executable, "-c", f"from engine.scripts import {function}; {function}()",
                 *map(str, arguments)], env={**os.environ, "PYTHONPATH": str(PACKAGE)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        self.assertIn("unknown verb", ends("engine", "nothing").stdout)
        self.assertEqual(ends("engine", "nothing").returncode, 2)
        self.assertIn("curves", ends("plot", "--help").stdout)
        if has("matplotlib") and has("PIL"):
            out = self.folder / "roc.svg"
            self.assertEqual(ends("plot", "roc", self.run_.folder, "--out", out).returncode, 0)
            self.assertIn("<svg", out.read_text())
            self.assertEqual(ends("report", self.run_.folder).returncode, 0)
        else:
            self.assertIn("pip install", ends("report", self.run_.folder).stdout)

    def test_predictions(self):
        images = sorted((self.folder / "digits" / "val").rglob("*.png"))[:3]
        found = self.run_.predict(images)
        self.assertEqual([line["path"] for line in found], [str(image) for image in images])
        self.assertEqual(len(found[0]["logits"]), 10)
        self.assertIn(found[0]["class"], self.run_.classes)
        self.assertEqual(len(engine.predict(self.folder / "digits" / "val", self.run_.last)), 20)
        bad = self.folder / "bad.png"
        bad.write_bytes(b"no picture")
        with self.assertRaises(engine.EngineError) as raised:
            engine.predict([images[0], bad], self.run_)
        self.assertEqual(raised.exception.kind, "data")
        self.assertEqual(json.loads(raised.exception.output)["path"], str(images[0]))

    def test_more_of_predictions(self):
        folder = self.folder / "digits" / "val"
        images = [str(image) for image in sorted(folder.rglob("*.png"))]
        [line] = self.run_.predict(images[0], top=3, probabilities=True, tta="dihedral")
        self.assertEqual([*line["probabilities"]], self.run_.classes)
        self.assertAlmostEqual(sum(line["probabilities"].values()), 1, places=6)
        self.assertEqual(line["top"][0]["class"], line["class"])
        self.assertEqual(len(line["top"]), 3)
        found = self.run_.predict(str(folder / "*" / "*.png"))
        self.assertEqual([line["path"] for line in found], images)
        many = [images[0]] * 1200  # more than words on a command line
        self.assertEqual(len(self.run_.predict(many, batch_size=64)), 1200)
        out = self.folder / "lines.jsonl"
        self.assertEqual(self.run_.predict(images, out=out), [])
        self.assertEqual(len(out.read_text().splitlines()), len(images))
        with self.assertRaisesRegex(engine.EngineError, "no class activation maps"):
            self.run_.predict(images[0], explain=self.folder / "maps")  # mnist_cnn

    def test_features(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is not there")
        folder = self.folder / "digits" / "val"
        paths, features = self.run_.embed(folder)
        self.assertEqual(len(paths), 20)
        self.assertEqual(features.shape, (20, 128))
        self.assertEqual(features.dtype, numpy.float32)
        kept = self.folder / "kept.npy"
        again, same = self.run_.embed(folder, out=kept, batch_size=3)
        self.assertEqual(again, paths)
        numpy.testing.assert_allclose(same, features, rtol=1e-4, atol=1e-5)
        numpy.testing.assert_array_equal(numpy.load(kept), same)

    def test_flags_that_ask_for_no_run(self):
        with redirect_stdout(io.StringIO()) as printed:
            run = engine.train(self.folder / "digits", dry_run=True, **self.FLAGS)
        self.assertIsNone(run)
        self.assertTrue(printed.getvalue() + self.said.getvalue())

    def test_folds_together_are_one_run(self):
        out = self.folder / "folds"
        run = engine.train(self.folder / "digits", epochs=1, folds=2, out=out, **self.FLAGS)
        self.assertEqual(run.folder.resolve(), out.resolve())
        self.assertEqual(run.part(), "folds")
        images = sum(1 for file in (self.folder / "digits").rglob("*.png"))
        self.assertEqual(len(run.predictions()["path"]), images)

    def test_an_interrupt_saves_and_the_run_goes_on(self):
        out = self.folder / "stopped"

        def interrupt():
            for _ in range(1200):
                if (out / "results.csv").exists() and len(engine.Run(out).csv("results.csv")) > 1:
                    break
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with self.assertRaises(KeyboardInterrupt) as raised:
            engine.train(self.folder / "digits", epochs=100000, out=out, **self.FLAGS)
        thread.join()
        self.assertEqual(raised.exception.__cause__.exit_code, 75)
        before = len(engine.Run(out).csv("results.csv"))
        run = engine.train(resume=out, epochs=before + 2)
        self.assertEqual(run.folder.resolve(), out.resolve())
        self.assertEqual(list(run.metrics["epoch"])[-1], before + 2)

    @unittest.skipUnless(has("matplotlib") and has("PIL"), "plots need matplotlib and Pillow")
    def test_plots_leave_the_process_as_it_was(self):
        import matplotlib
        import matplotlib.pyplot as plt
        import profile
        matplotlib.use("Agg")
        before = dict(matplotlib.rcParams), list(sys.path)
        for name in ("curves", "machine", "classes", "confusion", "roc", "reliability",
                     "top_losses"):
            figure = self.run_.plot(name)
            self.assertIsInstance(figure, matplotlib.figure.Figure)
            figure.savefig(io.BytesIO())
        self.assertEqual(plt.get_fignums(), [])
        self.assertEqual((dict(matplotlib.rcParams), list(sys.path)), before)
        self.assertIs(sys.modules["profile"], profile)
        self.assertNotIn("run_files", sys.modules)
        with self.assertRaisesRegex(ValueError, "there are curves"):
            self.run_.plot("curve")
        with self.assertRaisesRegex(ValueError, "no part test"):
            self.run_.plot("roc", "test")
        with self.assertRaisesRegex(FileNotFoundError, "nothing to plot"):
            self.run_.plot("lr_find")
        self.assertIn("<svg", self.run_.report().read_text())


class Wheel(unittest.TestCase):
    @unittest.skipUnless(shutil.which("readelf"), "the wheel needs readelf")
    def test_a_wheel_of_a_small_bundle(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bundle = folder / "bundle"
            program = Path(os.environ["ENGINE_PROGRAM"])
            completion = bundle / "share" / "bash-completion" / "completions" / "engine"
            for path in (bundle / "bin", bundle / "lib", bundle / "share" / "engine",
                         completion.parent):
                path.mkdir(parents=True)
            shutil.copy(program, bundle / "bin" / "engine")
            (bundle / "share" / "engine" / "manifest.json").write_text("{}")
            completion.write_text("complete")
            (bundle / "LICENSE").write_text("MIT")
            with redirect_stdout(io.StringIO()):
                built = [wheel.make_wheel(bundle, "1.2.3", folder / out) for out in ("a", "b")]
            self.assertEqual(built[0].read_bytes(), built[1].read_bytes())
            floor = int(re.fullmatch(r"engine-1.2.3-py3-none-manylinux_2_(\d+)_x86_64.whl",
                                     built[0].name)[1])
            asked = [v[1] for v in wheel.needed_versions(program)["GLIBC"]]
            self.assertGreaterEqual(floor, max(asked))
            self.assertLessEqual(floor, int(os.confstr("CS_GNU_LIBC_VERSION").split(".")[1]))
            with zipfile.ZipFile(built[0]) as packed:
                names = set(packed.namelist())
                self.assertLessEqual(
                    {"engine/__init__.py", "engine/py.typed", "engine/bundle/bin/engine",
                     "engine/bundle/share/engine/manifest.json",
                     "engine-1.2.3.data/data/share/bash-completion/completions/engine",
                     "engine-1.2.3.dist-info/LICENSE"}, names)
                mode = packed.getinfo("engine/bundle/bin/engine").external_attr >> 16
                self.assertTrue(mode & 0o111)
                record = csv.reader(io.StringIO(
                    packed.read("engine-1.2.3.dist-info/RECORD").decode()))
                rows = {row[0]: row[1:] for row in record}
                self.assertEqual(set(rows), names)
                for entry, (digest, size) in rows.items():
                    if entry.endswith("/RECORD"):
                        continue
                    data = packed.read(entry)
                    self.assertEqual(int(size), len(data))
                    hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
                    self.assertEqual(digest, "sha256=" + hashed.decode().rstrip("="))
                about = packed.read("engine-1.2.3.dist-info/METADATA").decode()
                self.assertIn("\nProvides-Extra: cuda13\n", about)
                self.assertIn('nvidia-cudnn-cu13>=9.19,<10; extra == "cuda13"', about)
                scripts = packed.read("engine-1.2.3.dist-info/entry_points.txt").decode()
                for function in re.findall(r"engine\.scripts:(\w+)", scripts):
                    from engine import scripts as module
                    self.assertTrue(callable(getattr(module, function)))

    @unittest.skipUnless(shutil.which("readelf"), "the wheel needs readelf")
    def test_symbols_newer_than_known_are_refused(self):
        for needs, floor in (({"GLIBC": [(2, 28)]}, 28), ({"GLIBCXX": [(3, 4, 30)]}, 35),
                             ({"GLIBC": [(2, 4)], "CXXABI": [(1, 3, 9)]}, 31)):
            with mock.patch.object(wheel, "needed_versions", lambda _: needs):
                self.assertEqual(wheel.glibc_floor([Path("a")]), (floor, Path("a")))
        with mock.patch.object(wheel, "needed_versions", lambda _: {"GLIBCXX": [(3, 4, 99)]}):
            with self.assertRaises(SystemExit):
                wheel.glibc_floor([Path("a")])


class Contents(unittest.TestCase):
    def test_licences_of_debian(self):
        references = {}
        for text, expression in (
                ("Expat", "MIT"), ("GPL-2+ or Artistic",
                                   "(GPL-2.0-or-later OR Artistic-1.0-Perl)"),
                ("LGPL-2.1 and BSD-3-clause", "(LGPL-2.1-only AND BSD-3-Clause)"),
                ("Odd name!", "LicenseRef-p-Odd-name")):
            self.assertEqual(debian_copyright.spdx_of("p", text, references), expression)
        self.assertEqual(references, {"Odd name!": "LicenseRef-p-Odd-name"})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "copyright"
            file.write_text("Format: x\n\nFiles: *\nCopyright: A\n B\nLicense: Odd\n\n"
                            "Files: debian/*\nCopyright: C\nLicense: GPL-2+\n\n"
                            "License: Odd\n do what\n you want\n")
            found = debian_copyright.licences_of("p", file)
            self.assertEqual(found.expression, "LicenseRef-p-Odd")
            self.assertEqual(found.texts, {"LicenseRef-p-Odd": "do what\nyou want"})
            self.assertEqual(found.copyright, "A\nB")
            file.write_text("Free for all.\n")
            self.assertEqual(debian_copyright.licences_of("p", file).texts,
                             {"LicenseRef-p-copyright": "Free for all.\n"})

    @unittest.skipUnless(shutil.which("dpkg-query"), "the SBOM needs dpkg-query")
    def test_an_sbom_names_every_file_and_package_once(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "lib").mkdir()
            (folder / "lib" / "libc.so.6").write_bytes(b"\x7fELF")
            (folder / "a ü.txt").write_text("text")
            shutil.copy(ROOT / "LICENSE", folder)
            arguments = ["sbom.py", name, "--version", "1.2.3", "--library", "lib/libc.so.6",
                         "libc6", "--compiled-in", "libc6", "--cuda", "13.0"]
            with mock.patch.object(sys, "argv", arguments), redirect_stdout(io.StringIO()):
                sbom.main()
                first = (folder / "engine.spdx.json").read_text()
                sbom.main()
            document = json.loads(first)
        again = dict(document, creationInfo=None)
        self.assertEqual(again, dict(json.loads(first), creationInfo=None))
        self.assertEqual(document["spdxVersion"], "SPDX-2.3")
        self.assertEqual([p["name"] for p in document["packages"]],
                         ["engine", "libc6", "cudart_static"])
        names = {entry["fileName"]: entry["SPDXID"] for entry in document["files"]}
        self.assertEqual(set(names), {"./LICENSE", "./lib/libc.so.6", "./a ü.txt"})
        known = {"SPDXRef-DOCUMENT", *names.values()} | {
            package["SPDXID"] for package in document["packages"]}
        self.assertEqual(len(known), 7)
        for one in known:
            self.assertRegex(one, r"^SPDXRef-[A-Za-z0-9.-]+$")
        for relation in document["relationships"]:
            self.assertLessEqual({relation["spdxElementId"], relation["relatedSpdxElement"]}, known)
        licences = {info["licenseId"] for info in document["hasExtractedLicensingInfos"]}
        for package in document["packages"]:
            named = set(re.findall(r"LicenseRef-[A-Za-z0-9.-]+", package["licenseDeclared"]))
            self.assertLessEqual(named, licences)


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=1)
    for test, why in program.result.skipped:
        print(f"skipped: {test.id().split('.', 1)[-1]}: {why}")
    if not program.result.wasSuccessful():
        sys.exit(1)
    if program.result.testsRun == len(program.result.skipped):
        sys.exit(77)
