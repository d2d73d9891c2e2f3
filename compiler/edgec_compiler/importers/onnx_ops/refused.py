"""Why operators are refused that no table expresses, and the way out."""

_SHAPE = (
    "the shape of its output depends on the data, which a device with planned memory can't run: "
    "cut the model before it, and do this step in the application"
)
_RANDOM = "it gives other numbers on every run: export the model for inference, without it"
_TEXT = "it works on texts, of which no target has tensors: prepare them before the model"
_TRAINING = "it trains: export the model for inference"

REASONS: dict[str, str] = {
    "Adagrad": _TRAINING,
    "Adam": _TRAINING,
    "Bernoulli": _RANDOM,
    "Gradient": _TRAINING,
    "ImageDecoder": "it decodes image files: use the preprocessing step decode_image",
    "LabelEncoder": _TEXT,
    "Momentum": _TRAINING,
    "Multinomial": _RANDOM,
    "NonZero": _SHAPE,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "RegexFullMatch": _TEXT,
    "StringConcat": _TEXT,
    "StringNormalizer": _TEXT,
    "StringSplit": _TEXT,
    "TfIdfVectorizer": _TEXT,
    "Unique": _SHAPE,
}

_PAST = (
    "this form is not supported: it hands on a past of keys and values, or packs or turns them; "
    "export the model without (use_cache=False)"
)
OF_ONNX_RUNTIME: dict[str, str] = {"Attention": _PAST, "MultiHeadAttention": _PAST}
