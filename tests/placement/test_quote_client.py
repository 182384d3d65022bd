"""`stoa predict … --load` and `--job`."""

import json
from pathlib import Path

import pytest

from controlplane.endpoints import predict_client
from tests.benchmarks.speed.measured import configuration

LOAD = ["--load", "rate=5,prompt=1000,output=250"]
PRICES = ["--price", "h100=3.20", "--price", "l40s=1.40"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    stated = configuration("Qwen3-14B")
    (tmp_path / "config.json").write_text(json.dumps(stated))
    return str(tmp_path)


def test_a_load_is_quoted_as_a_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    slo = ["--slo", "ttft=1,tpot=0.05"]
    assert predict_client.main([model, *LOAD, *PRICES, *slo]) == predict_client.FIT
    said = capsys.readouterr().out
    assert "h100 TP1" in said and "3.20" in said and "EUR/M out" in said
    assert "a start of the first: wake" in said and "not l40s" in said


def test_the_same_for_programs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict_client.main([model, *LOAD, *PRICES, "--json"]) == predict_client.FIT
    told = json.loads(capsys.readouterr().out)
    first = told["candidates"][0]
    assert first["price"]["currency"] == "EUR" and first["ttft_s"]["p95"] > 0
    assert {each["device"] for each in told["candidates"] + told["rejected"]} == {"h100", "l40s"}


def test_without_prices_a_named_device_is_quoted(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_client.main([model, *LOAD, "--gpu", "h100,h200", "--json"]) == predict_client.FIT
    told = json.loads(capsys.readouterr().out)
    assert {each["device"] for each in told["candidates"]} == {"h100", "h200"}
    assert all(each["price"]["hour"] is None for each in told["candidates"])


def test_a_job_and_its_canary(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["--job", "requests=5000,prompt=1000,output=200", "--price", "h100=3.20"]
    canary = ["--canary", "seconds=60,tokens=300000,requests=200"]
    assert predict_client.main([model, *job, *canary]) == predict_client.FIT
    said = capsys.readouterr().out
    assert "runtime, s" in said and "by its canary the job takes" in said


def test_what_nothing_keeps_is_no_fit(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    slo = ["--slo", "tpot=0.0001"]
    assert predict_client.main([model, *LOAD, *PRICES, *slo]) == predict_client.NO_FIT
    assert "nothing keeps it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--load", "rate=5"], "load.prompt_tokens"),
        (["--load", "speed=5"], "rate=…"),
        (["--load", "rate=fast,prompt=1,output=1"], "a number for rate"),
        (["--load", "rate=-1,prompt=1,output=1"], "rate is more than 0"),
        ([*LOAD, "--price", "h100=cheap"], "a price in EUR"),
        ([*LOAD, "--price", "h100=-1"], "a price in EUR"),
        ([*LOAD, "--price", "abacus=1"], "abacus"),
        ([*LOAD, "--job", "requests=1,prompt=1,output=1"], "one of load and job"),
        ([*LOAD, "--canary", "seconds=60,tokens=1,requests=1"], "a --job"),
        (["--load", "rate=1,prompt=100000,output=1"], "40,960"),
        ([*LOAD, "--max-model-len", "1024"], "1,024"),
    ],
)
def test_what_cannot_be_read_is_named(
    model: str, wrong: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_client.main([model, *wrong]) == predict_client.REFUSED
    assert named in capsys.readouterr().err
