"""`python -m training.export CHECKPOINT OUT.onnx`: one of our networks as ONNX, with its record in the same file.

For other programs, and to show that both give the same masks. cloudjob itself runs its own networks by torch.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import click
import torch

from cloudjob.model import checkpoint, graph
from cloudjob.model.contract import Graph
from cloudjob.model.draft import to_record
from training.errors import told

OPSET = 17


def export(path: Path | None, out: Path) -> None:
    """Write the network of a checkpoint, or the one that ships, as ONNX.

    Raises:
        ContractError: it is no network of ours.
    """
    loaded = checkpoint.load(path)
    contract = loaded.contract
    side = 2 * contract.stride
    window = torch.zeros(1, len(contract.bands), side, side)
    free = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # The newer exporter needs one package more, onnxscript, and gives the same graph
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # Which some slices cannot be: they are left as they are
        torch.onnx.export(
            loaded.unet,
            (window,),
            str(out),
            dynamo=False,
            input_names=["reflectance"],
            output_names=["logit"],
            dynamic_axes={"reflectance": free, "logit": free},
            opset_version=OPSET,
        )
    terms = replace(contract, graph=Graph(stride=contract.stride, activation="sigmoid"))
    out.write_bytes(graph.with_record(out.read_bytes(), to_record(terms, "")))


@click.command(help=__doc__)
@click.argument("network", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(network: Path, out: Path) -> None:
    """Command line."""
    with told():
        export(network, out)


if __name__ == "__main__":
    main()
