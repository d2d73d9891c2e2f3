"""Where a target runs a model's operators: by its own compiler where that is at hand."""

from collections.abc import Sequence
from dataclasses import replace

from edgec_compiler.errors import ConversionError, MissingExtraError, UsageError
from edgec_compiler.mapping import vela, vendor
from edgec_compiler.mapping.checking import Mapping, check
from edgec_compiler.mapping.opening import read_bytes, read_graph
from edgec_compiler.mapping.programs import is_installed
from edgec_hardware_profiles import Profile, Tool

_WAY_OUT = {
    "onnx": "compile it for this target from the model that it was made from",
    "tflite": "give the ONNX or PyTorch model that it was made from to edgec compile",
}


def map_model(model: str, profile: Profile, shapes: Sequence[str] = ()) -> Mapping:
    """Return where `profile` runs each operator of a model file or bundle.

    The vendor's compiler is asked where it is installed and takes the file; otherwise, and where it
    fails, the profile's table predicts, and a note says why.

    Raises:
        UsageError: the target does not take the model's format, or the file cannot be read.
        ModelFileError: it is not a model.
        MissingExtraError: an ONNX file, and the extra `compiler` is not installed.
    """
    graph = read_graph(model, shapes)
    if graph.format not in profile.formats:
        raise UsageError(
            f"{model}: target {profile.name} takes {' or '.join(profile.formats)}, not "
            f"{graph.format}: {_WAY_OUT[graph.format]}"
        )
    predicted = check(graph, profile)
    tools = [tool for tool in profile.tools if tool.kind == "vela" or tool.format == graph.format]
    if not tools or graph.format != "tflite":
        return predicted
    try:
        made = _compiled(read_bytes(model)[1], profile, tools[0])
    except MissingExtraError:
        note = f"{tools[0].name} is not installed here: predicted from the profile's table"
        return replace(predicted, notes=(note,))
    except ConversionError as error:
        return replace(
            predicted, notes=(f"predicted, since the vendor's compiler failed: {error}",)
        )
    return made if made is not None else predicted


def _compiled(payload: bytes, profile: Profile, tool: Tool) -> Mapping | None:
    if tool.kind == "vela":
        return vela.compile_with_vela(payload, profile, tool).mapping
    if not is_installed(tool):
        raise MissingExtraError(tool.name, tool.name)
    return vendor.compile_with_tool(payload, "tflite", profile, tool).mapping
