"""Writes profiles/full/dvc.yaml: the pipeline of dvc.yaml, with the parameters of the full study.

Its images are fetched by `make full`, since DVC lets only one pipeline own data/raw/.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FULL = ROOT / "profiles" / "full" / "dvc.yaml"


def full(text: str) -> str:
    """The text of the full study's pipeline, from that of dvc.yaml."""
    text = text.replace("profile: params.yaml", "profile: profiles/full.yaml")
    text = text.replace('size: ""', "size: full/")
    # On its own DVC reads only a params.yaml beside dvc.yaml.
    text = text.replace("\nvars:\n", "\nvars:\n  - ../full.yaml:data,environment\n")
    text = re.sub(r"^  data:\n.*?\n\n", "", text, flags=re.S | re.M)
    text = re.sub(r'"data/raw/\$\{data\.name\}",\s*', "", text)
    text = re.sub(r"^(    desc: .*\n)", r"\1    wdir: ../..\n", text, flags=re.M)
    stages, plots = text.split("\nplots:\n")
    plots = re.sub(r"^  - ", "  - ../../", plots, flags=re.M)
    return f"# Written by `make pipeline` from dvc.yaml; do not edit.\n#\n{stages}\nplots:\n{plots}"


if __name__ == "__main__":
    FULL.parent.mkdir(exist_ok=True)
    FULL.write_text(full((ROOT / "dvc.yaml").read_text()))
