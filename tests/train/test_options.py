from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from nanochat import options
from nanochat.config import GPTConfig, plain
from nanochat.options import SECTIONS, parse
from nanochat.record import directory_of


def faults_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_every_field_of_every_section_is_an_option_and_no_flag_is_taken_twice():
    made = options.options()
    paths = {item.path for item in made}
    for section, cls in SECTIONS.items():
        assert {(section, item.name) for item in fields(cls) if item.name != "knobs"} <= paths
    flags = [item.flag for item in made]
    assert len(flags) == len(set(flags))


DOCUMENTED = """--attention-type --optimizer-type --scheduler-type --batch-size --learning-rate --n-layer --n-head
--n-kv-head --n-embd --sequence-len --max-steps --target-flops --warmup-steps --seed --device --dtype --compile
--ca-init-rule --ca-init-alpha --ca-init-seed --artifacts-dir --artifacts-kind --artifacts-topic --run-id --resume
--val-interval
--checkpoint-interval --use-flex-attention""".split()


@pytest.mark.parametrize("flag", DOCUMENTED)
def test_the_flags_of_the_users_document_exist(flag):
    assert flag in {item.flag for item in options.options()}


def test_values_arrive_where_they_belong():
    words = "--attention-type tropical --tropical-score hilbert --n-kv-head 2 --learning-rate 1e-3 --no-qk-norm"
    config = parse([*words.split(), "--max-steps", "1e3", "--compile", "--seed=3"]).config
    assert config.model.attention_type == "tropical" and config.model.knobs["tropical"].score == "hilbert"
    assert (config.model.n_kv_head, config.model.qk_norm, config.optim.learning_rate) == (2, False, 1e-3)
    assert (config.train.max_steps, config.train.compile, config.train.seed) == (1000, True, 3)


def test_all_faults_of_all_sections_come_together(capsys):
    words = """--n-embd 30 --n-kv-head 3 --learning-rate nan --optimizer-type adam --scheduler-type cosin --max-steps x
    --attention-type tropicl --val-fraction 2 --device gpu --dtype fp8 --batchsize 3""".split()
    lines = faults_of(words, capsys)
    assert all(line.startswith("nanochat.train: ") for line in lines)
    for part in (
        "--n-embd: got 30, need a multiple of --n-head 4",
        "--n-kv-head: got 3, need a divisor of --n-head 4",
        "--learning-rate: got nan, need a finite number",
        "unknown --optimizer-type 'adam'",
        "did you mean 'cosine'?",
        "--max-steps: got 'x', need a whole number",
        "did you mean 'tropical'?",
        "--val-fraction: got 2",
        "--device: got 'gpu'",
        "unknown --dtype 'fp8'",
        "unknown option --batchsize; did you mean --batch-size?",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("--learning-rate -1", "--learning-rate: got -1, need more than 0"),
        ("--learning-rate fast", "--learning-rate: got 'fast', need a number"),
        ("--n-layer 2.5", "--n-layer: got '2.5', need a whole number"),
        ("--max-steps 10 --target-flops 1e9", "got both, need one"),
        ("--target-flops 1e4", "need 200 steps"),
        ("--target-flops 2e9 --n-layer 12 --n-embd 512", "need 200 steps"),
        ("--max-steps 10 --warmup-steps 10", "--warmup-steps: got 10, need fewer than the run's 10 steps"),
        ("--resume", "--resume: got no --run-id"),
        ("--run-id ../x", "--run-id: got '../x'"),
        ("--tokenizer byte --vocab-size 300", "--vocab-size: got 300, need 257"),
        ("--tropical-score hilbert", "options of tropical: got some in a run that does not use it"),
        ("--attention-type tropical --tropical-score dot", "unknown --tropical-score 'dot'"),
        ("train", "got 'train', need options only"),
        ("--n-layer", "expected one argument"),
        ("--config none.toml", "--config: got none.toml"),
    ],
)
def test_one_fault_is_one_line(words, fault, capsys):
    lines = faults_of(words.split(), capsys)
    assert len(lines) == 1 and fault in lines[0], lines


def test_command_line_beats_file_beats_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\nn_layer = 3\nn_embd = 64\nattention_type = "tropical"\n[model.knobs.tropical]\nscore = "hilbert"\n'
        "[optim]\nlearning_rate = 1\n[train]\ncompile = false\n"
    )
    config = parse(["--config", str(file), "--n-embd", "32"]).config
    assert (config.model.n_layer, config.model.n_embd, config.model.n_head) == (3, 32, GPTConfig().n_head)
    assert config.model.knobs["tropical"].score == "hilbert"
    assert config.optim.learning_rate == 1.0 and config.train.compile is False


def test_every_fault_of_a_file_is_reported(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('[model]\nn_layers = 3\nn_embd = "wide"\nn_head = true\n[other]\nx = 1\n')
    lines = faults_of(["--config", str(file)], capsys)
    assert len(lines) == 4
    assert any("unknown key model.n_layers; did you mean model.n_layer?" in line for line in lines)
    assert any("model.n_embd: got 'wide', need a whole number" in line for line in lines)
    assert any("model.n_head: got True, need a whole number" in line for line in lines)
    assert any("unknown key other.x" in line for line in lines)


def test_a_file_that_is_not_toml_is_one_line(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("[model\n")
    assert len(faults_of(["--config", str(file)], capsys)) == 1


def test_a_budget_alone_chooses_the_size_and_says_so():
    request = parse(["--target-flops", "2e9"])
    assert len(request.notes) == 1 and "2e+09" in request.notes[0]
    assert options.steps_of(request.config) >= 200
    given = parse(["--target-flops", "2e9", "--sequence-len", "16", "--attention-type", "reversible"]).config
    assert given.model.sequence_len == 16 and given.model.attention_type == "reversible"


def test_the_byte_tokenizer_brings_its_vocabulary():
    assert parse(["--tokenizer", "byte"]).config.model.vocab_size == 257


def test_a_resumed_run_says_only_its_name(tmp_path):
    words = ["--artifacts-dir", str(tmp_path), "--run-id", "r"]
    first = parse([*words, "--n-layer", "2", "--target-flops", "2e12", "--n-embd", "64"]).config
    folder = directory_of(first)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(plain(first)))
    again = parse([*words, "--resume"]).config
    assert again.model == first.model and again.train.target_flops == 2e12 and again.train.resume


def test_help_is_grouped_and_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert max(map(len, text.splitlines())) <= 80
    for group in ("model:", "optimizer and schedule:", "text:", "run:", "tropical ("):
        assert f"\n{group}" in text


def test_faults_and_help_import_nothing_heavy():
    code = (
        "import sys\nfrom nanochat import train\n"
        "for words in (['--help'], ['--n-embd', '30'], ['--target-flops', '1']):\n"
        "    try:\n        train.main(words)\n    except SystemExit:\n        pass\n"
        "    else:\n        raise AssertionError(words)\n"
        "heavy = {'torch', 'numpy', 'jax', 'rich'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
