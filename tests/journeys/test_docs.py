"""All commands and Python blocks of README and docs/ are run, or listed here with a reason."""

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import sys
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import typer
import yaml

from diffusionpose import cli, video
from diffusionpose.skeleton import SKELETONS
from diffusionpose.video import VideoWriter, open_video
from tests.data.made import coco_root, posetrack_root
from tests.detection.helpers import yolox_file
from tests.journeys.doc_blocks import (
    PAGES,
    ROOT,
    SHELL,
    all_commands,
    blocks_of,
    inline_commands,
    own_words,
)
from tests.test_compare import poses_of, swing

SMALL_MODEL = {
    "name": "small",
    "backbone": {"hidden_size": 32, "depth": 1, "num_heads": 2},
    "encoder": {"depth": 1, "num_heads": 2},
    "decoder": {"depth": 1, "num_heads": 2},
}
_PARTS = ("backbone", "encoder", "decoder")
SMALL_RUN = " ".join(
    f"--set {setting}"
    for setting in (
        "model.backbone.kind=vit",
        "anchor=null",
        "distillation=null",
        "model.backbone.hidden_size=32",
        *(f"model.{part}.depth=1" for part in _PARTS),
        *(f"model.{part}.num_heads=2" for part in _PARTS),
        "epochs=1",
        "batch_size=2",
        "workers=0",
        "precision=32",
        "optimizer.warmup_steps=1",
    )
)

SUBSTITUTIONS = (
    # Data sets: small synthetic ones, in the working folder of the commands.
    (r"/data/(posetrack18|jhmdb|coco|mine)\b", r"data/\1"),
    (r"--data (DATA|/data)(?=\s|$)", "--data data"),
    # Videos: the first second of the demo clip.
    (r"\b(walk\.mp4|VIDEO)\b", "examples/demo.mp4"),
    (r"\bNAME\.poses\.json\b", "poses/demo.poses.json"),
    (r"--person-b 2\b", "--person-b 1"),
    # Models: a small one with random weights.
    (r"--model (tiny|runs/\w+/model)\b", "--model {untrained}"),
    (r"\b(from_pretrained|load_network)\(\"tiny\"", r'\1("{untrained}"'),
    (r"^diffusionpose export tiny\b", "diffusionpose export {untrained}"),
    (r"^(diffusionpose (?:predict|batch|report (?!\S+\.json)).*)(?<!--model {untrained})$", r"\1 --model {untrained}"),
    # Runs: a few steps of that model.
    (r"configs/((?:paper|tiny)[\w-]*\.yaml)", rf"configs/\1 {SMALL_RUN}"),
    (r"configs/ablations\.yaml", "small-suite.yaml"),
    (r"backbone_weights=vitpose-b\.pth", "backbone_weights=null"),
    (r"(ablate .*init_from=)\S+", r"\1{untrained}"),
    (r"^init_from: tiny\b", "init_from: {untrained}"),
    (r"^model: tiny\b", f"model: {json.dumps(SMALL_MODEL)}"),
    (r"^epochs: \d+", "epochs: 1"),
    # A busy machine without a GPU.
    (r"--device cuda\b", "--device cpu"),
    (r"^(diffusionpose batch .*)--workers 4", r"\1--workers 1"),
)  # fmt: skip
"""Patterns in commands, Python code and files of the pages, and replacements, applied in order."""

NOT_RUN = {
    r"make \w+": "sets up an environment of its own; this test is what it would run",
    r"\. \.venv/bin/activate": "the environment that the tests run in",
    r"pip install .*": "changes the environment that the tests run in",
    r"npm pack .*": "downloads",
    r"diffusionpose data synth .*": "needs a large extra and files that are not here; tests/synthesis has its parts",
    r"python tools/(make_stem|teach)\.py .*": "needs what npm downloads",
    r"python tools/(start_decoder|mean_weights|calibrate|curves)\.py .*": "needs what the runs before give",
    r"python tools/pack_model\.py .*": "would replace the bundled model",
    r"torchrun .*": "eight processes; tests/test_train.py learns in two",
    r"tensorboard .*": "serves until it is stopped",
    r"jupyter lab .*": "serves until it is stopped; test_notebook.py runs the notebook",
    r"diffusionpose app": "serves until it is stopped; tests/app/test_command.py starts it",
    r"curl .*/api/jobs.*": "needs the server; tests/app/test_server.py uploads",
    r"ray (start|stop)\b.*": "needs machines; tests/batch/test_ray_workers.py has two, in one",
    r"diffusionpose batch .*--ray .*": "needs ray; tests/journeys/test_batch.py runs it where it is",
    r"docker (build|run) .*": "downloads; test_docker.py looks at the files",
    r"diffusionpose predict .*--detector owner/name.*": "downloads",
    r"diffusionpose predict .*--detector my-detector.*": "tests/detection/test_huggingface.py has such a folder",
}
"""Commands that are not run, and why; those of `diffusionpose` are parsed anyway."""

SLOW = r"diffusionpose (train|ablate|export) |\btrain\(recipe"
"""Commands run by `make test-slow` only."""


def is_listed(command):
    return any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


def substituted(text, untrained):
    for pattern, replacement in SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.replace("{untrained}", str(untrained))


def is_slow(block):
    return block.language in (*SHELL, "python") and re.search(SLOW, block.text) is not None


SLOW_PAGES = [page for page in PAGES if any(map(is_slow, blocks_of(page)))]
RUNNABLE = [
    page
    for page in PAGES
    if any(
        block.language == "python" or not all(map(is_listed, block.commands))
        for block in blocks_of(page)
    )
]


# --- Files that the pages assume ------------------------------------------------------------------


@pytest.fixture(scope="module")
def furnished(tmp_path_factory, untrained, made_video):
    """Make a folder with all files that the pages assume."""
    folder = tmp_path_factory.mktemp("furnished")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "examples").mkdir()
    first_second(folder / "examples" / "demo.mp4")
    (folder / "clips").mkdir()
    for name in ("clips/one.mp4", "clips/two.mp4", "extra.mov"):
        shutil.copy(made_video, folder / name)
    yolox_file(folder / "yolox_s.onnx")
    # The last two are as written by `data synth`.
    for name in ("data/posetrack18", "data/jhmdb", "data/synthetic", "FAILURES"):
        root = posetrack_root(folder / name)
        shutil.copytree(root / "posetrack_data" / "val", root / "posetrack_data" / "train")
    stills(folder / "data" / "coco", "annotations/person_keypoints_val2017.json", "val2017")
    stills(folder / "data" / "coco", "person_keypoints_train2017.json", "train2017")
    for name in ("lspet", "mine"):
        for part in ("train", "val"):
            stills(folder / "data" / name, f"annotations/{part}.json", "images")
    # As written by tools/teach.py.
    stills(folder / "data" / "lspet", "annotations/train_taught.json", "images")
    stills(folder / "data" / "people", "annotations.json", "images")
    splits = folder / "data" / "jhmdb" / "posetrack_data"
    shutil.copytree(splits / "train", splits / "train_taught")
    # As written by tools/start_decoder.py and tools/make_stem.py.
    (folder / "runs").mkdir()
    for name in ("runs/tiny-start", "runs/first-start", "runs/third-start", "stem"):
        shutil.copy(untrained / "model.safetensors", folder / f"{name}.safetensors")
    detections(folder / "val_boxes.json", folder / "data" / "posetrack18")
    small_suite(folder)
    for name in ("a", "b", "mine", "theirs"):
        poses_of(swing(np.linspace(0, 1, 20)), name=f"{name}.mp4").save(
            folder / f"{name}.poses.json"
        )
    return folder


def first_second(path):
    """Write the first second of the demo clip."""
    with open_video(ROOT / "examples" / "demo.mp4") as reader:
        width, height = reader.info.width, reader.info.height
        with VideoWriter(path, width, height, rate=Fraction(25)) as writer:
            for frame in islice(reader, 25):
                writer.write(frame)


def stills(root, annotations, images):
    """Write a COCO data set under these names, without the crowd."""
    made = coco_root(root / "made")
    for source, name in ((made / "train.json", annotations), (made / "images", images)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            source.rename(root / name)
    shutil.rmtree(made)


def detections(path, root):
    """Write detected boxes for every labelled frame."""
    found = []
    for file in sorted((root / "posetrack_data" / "val").glob("*.json")):
        content = json.loads(file.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found += [
            {"image_name": names[one["image_id"]], "bbox": one["bbox"], "score": 0.9, "category_id": 1}
            for one in content["annotations"]
        ]  # fmt: skip
    path.write_text(json.dumps(found))


def small_suite(folder):
    """Write two rows of the ablations, with one seed and a few steps."""
    recipe = {
        "name": "small",
        "model": SMALL_MODEL,
        "train": [{"kind": "posetrack", "root": "DATA/jhmdb", "split": "train"}],
        "validation": [{"kind": "posetrack", "root": "DATA/jhmdb", "split": "val"}],
        "optimizer": {"backbone_scale": 0.0, "warmup_steps": 1},
        "epochs": 1,
        "batch_size": 5,
        "workers": 0,
    }
    suite = {
        "recipe": "small.yaml",
        "seeds": [0],
        "rows": [
            {"name": "full", "label": "the model"},
            {"name": "head", "label": "plain head", "settings": ["model.decoder.kind=head"]},
        ],
        "tables": [{"title": "T", "claim": "C", "reference": "head", "rows": ["head", "full"]}],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "small-suite.yaml").write_text(yaml.safe_dump(suite))


# --- Running a page -------------------------------------------------------------------------------


@pytest.fixture
def run_page(furnished, untrained, tmp_path, monkeypatch):
    """Run a page from top to bottom in a furnished folder; `with_slow` includes slow commands."""
    folder = tmp_path / "reader"
    shutil.copytree(furnished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own

    def call(page, *, with_slow):
        prepared(page, untrained)
        names, done = {"__name__": "page"}, 0
        for block in blocks_of(page):
            if is_slow(block) and block.language == "python" and not with_slow:
                continue
            if block.title is not None:
                (folder / block.title).write_text(substituted(block.text, untrained))
            elif block.language == "python":
                code = substituted(block.text, untrained)
                exec(compile(code, f"{page}:{block.line}", "exec"), names)
                done += 1
            for command in block.commands:
                if not is_listed(command) and (with_slow or not re.match(SLOW, f"{command} ")):
                    run_command(substituted(command, untrained), f"{page}: {command}")
                    done += 1
        return done

    known = dict(SKELETONS)
    yield call
    SKELETONS.clear()
    SKELETONS.update(known)


def prepared(page, untrained):
    """Make the results of earlier pages that this one needs."""
    needed = "".join(block.text for block in blocks_of(page))
    predict = f"diffusionpose predict examples/demo.mp4 --model {untrained} --quiet"
    if "NAME.poses.json" in needed:
        run_command(predict, "an earlier page")
    if "clip.poses" in needed:
        shutil.copy("examples/demo.mp4", "clip.mp4")
        run_command(
            predict.replace("examples/demo", "clip") + " --format csv --out .  --no-video", page
        )
    if "--predictions mine" in needed:
        base = f"diffusionpose evaluate --model {untrained} --data data/posetrack18 --resamples 0"
        run_command(f"{base} --write-predictions mine", "an earlier page")


def run_command(command, what):
    """Run a command in this process; its standard output may be redirected to a file."""
    words = shlex.split(command)
    target = words.index(">") if ">" in words else None
    output, complaints, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[:target])
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaints):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
    assert code == 0, f"{what}: exit code {code}: {complaints.getvalue()}"
    if target is not None:
        with open(words[target + 1], "w") as file:
            file.write(output.getvalue())


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_commands_of_a_page_run(run_page, page):
    assert run_page(page, with_slow=False) > 0 or page in SLOW_PAGES


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW_PAGES)
def test_the_commands_of_a_page_run_with_training_and_export(run_page, page):
    pytest.importorskip("lightning")
    assert run_page(page, with_slow=True) > 0


# --- Completeness ---------------------------------------------------------------------------------


def test_every_command_is_run_or_listed():
    assert len(all_commands()) > 50
    unknown = [
        f"{page}: {command}"
        for page, command in all_commands()
        if not command.startswith("diffusionpose ") and not is_listed(command)
    ]
    assert unknown == []


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_listed_is_there(pattern):
    assert any(re.fullmatch(pattern, command) for _, command in all_commands())


@pytest.mark.parametrize(
    # The one left out is applied to text that was already substituted.
    "pattern",
    [pattern for pattern, _ in SUBSTITUTIONS if "{untrained}" not in pattern],
)
def test_what_is_substituted_is_there(pattern):
    blocks = [block for page in PAGES for block in blocks_of(page)]
    texts = [*(command for _, command in all_commands()), *(block.text for block in blocks)]
    assert any(re.search(pattern, text, re.MULTILINE) for text in texts)


def verb_of(words):
    """Resolve the command at the start of `words`; return it and the remaining words."""
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(
    ("page", "command"), [pair for pair in all_commands() if own_words(pair[1])]
)
def test_every_command_parses(page, command):
    words = own_words(command)
    words = words[: words.index(">")] if ">" in words else words
    verb, rest = verb_of(words)
    verb.make_context(verb.name, rest)


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_running_text_exist(page):
    for command in inline_commands(page):
        verb, words = verb_of(command.split()[1:])
        known = {option for parameter in verb.params for option in parameter.opts}
        known |= {option for parameter in verb.params for option in parameter.secondary_opts}
        wrong = [word for word in words if word.startswith("-") and word not in known]
        assert wrong == [], command


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_codes_of_issues_are_the_readers():
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `?([A-Z_]+)`? \| (.*) \| (.*) \|$", re.MULTILINE)
    codes = row.findall(video.__doc__)
    assert len(codes) == 13
    assert row.findall(page) == codes
