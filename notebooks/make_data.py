"""Make the files in notebooks/data from folders of runs and of analyses; run again when there are
new ones.

    python notebooks/make_data.py --signals runs/signals --lam runs/lambda_ablation \
        --geometry start=evals/tiny-geometry g2rl=runs/NAME/eval/geometry-countdown \
        --fidelity start=evals/tiny-fidelity none=... g2rl=...

Only what the notebooks draw is kept, in single precision. Each option can be given alone; files of
the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from g2rl.analysis.comparison.runs import SIGNAL, arms, collect

DATA = Path(__file__).resolve().parent / "data"
KEPT = re.compile(
    r"train/(accuracy|length|entropy)|eval/[^/]+/(pass@(1|16)|distinct)|"
    r"probe/(cosine|negative_pairs).*|probe/(sampled_at|scored_at|top_p|top_k)"
)
LAMBDA = "exploration.lam"


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--signals", type=Path, nargs="+", metavar="FOLDER", help="runs of several signals")
    words.add_argument(
        "--lam", type=Path, nargs="+", metavar="FOLDER", help="runs of g2rl with several lambda"
    )
    words.add_argument("--lam-zero", type=Path, nargs="+", default=[], metavar="FOLDER",
                       help="runs of exploration=none, which is lambda = 0")
    words.add_argument("--geometry", type=named, nargs="+", metavar="NAME=FOLDER")
    words.add_argument("--fidelity", type=named, nargs="+", metavar="NAME=FOLDER",
                       help="the first is drawn in full, of the others the correlation of phi")
    chosen = words.parse_args()
    DATA.mkdir(exist_ok=True)
    if chosen.signals:
        write_runs(finished(chosen.signals, [SIGNAL]), "signals.parquet")
    if chosen.lam:
        zero = finished(chosen.lam_zero, [SIGNAL]).assign(arm="lam=0") if chosen.lam_zero else None
        write_runs(pd.concat([zero, finished(chosen.lam, [LAMBDA])]), "lambda.parquet")
    for name, folder in chosen.geometry or ():
        write_geometry(folder, DATA / "geometry" / name)
    for place, (name, folder) in enumerate(chosen.fidelity or ()):
        write_fidelity(folder, DATA / "fidelity" / name, whole=place == 0)
    total = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file())
    print(f"{DATA}: {total / 1000:.0f} kB")


def named(text: str) -> tuple[str, Path]:
    name, sign, folder = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FOLDER")
    return name, Path(folder)


def finished(folders: list[Path], by: list[str]) -> pd.DataFrame:
    """The long frame of the runs that have finished; the others are named and left out."""
    found = [run for members in arms(folders, by).values() for run in members]
    done = [run for run in found if (run / "summary.json").is_file()]
    for run in found:
        if run not in done:
            print(f"left out, not finished: {run}")
    return collect(done, by)


def write_runs(frame: pd.DataFrame, name: str) -> None:
    frame = frame[frame["metric"].map(KEPT.fullmatch).astype(bool)].copy()
    frame["run"] = frame["run"].map(short)
    write_parquet(frame, DATA / name)
    counts = frame.groupby("arm", sort=False)["seed"].nunique().to_dict()
    print(f"{name}: seeds of each arm {counts}")


def write_geometry(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in ("pairs", "responses"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        if name == "responses":
            frame = frame.drop(columns=["gold", "answer", "route", "finish", "style", "answer_class"])
        write_parquet(frame, out / f"{name}.parquet")
    found = json.loads((folder / "geometry.json").read_text(encoding="utf-8"))
    write_json(out / "geometry.json", found)


def write_fidelity(folder: Path, out: Path, whole: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))
    found["correlations"] = [
        row
        for row in found["correlations"]
        if row["class"] == "all" and (row["predictor"] == "phi" or row["target"] == "all")
        if whole or row["target"] == "all"
    ]
    write_json(out / "fidelity.json", found)
    if whole:
        kept = ["problem", "first", "second", "pair", "identical", "phi", "true/all"]
        frame = pd.read_parquet(folder / "pairs.parquet", columns=kept)
        write_parquet(frame, out / "pairs.parquet")


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """In single precision and short integers; temperatures are compared, so they stay as they
    are."""
    floats = {n: np.float32 for n in frame.select_dtypes("float64") if n not in ("sampled_at", "scored_at")}
    small = frame.astype(floats | dict.fromkeys(frame.select_dtypes("int64"), np.int32))
    small.to_parquet(path, index=False, compression="zstd", compression_level=19)


def write_json(path: Path, found: object) -> None:
    """Without the path before a run's last two folders, and with six digits."""
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    text = re.sub(r"(after )(?:[^\s,;\"]*/)?([^/\s,;\"]+/[^/\s,;\"]+)", r"\1\2", text)
    text = re.sub(r"-?\d+\.\d{7,}(?![\de])", lambda m: f"{float(m[0]):.6g}", text)
    path.write_text(text + "\n", encoding="utf-8")


def short(run: str) -> str:
    return "/".join(Path(run).parts[-2:])


if __name__ == "__main__":
    main()
