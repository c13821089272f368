"""Schemas: the Arrow schema of every table that the pipeline writes, and the closed list of rejection reasons.

A stage writes tables of its own; none edits a row of another stage's table.
"""

from collections.abc import Mapping
from enum import StrEnum

import pyarrow as pa


class Reason(StrEnum):
    """Why a clip was rejected: a closed list."""

    NO_CAPTION = "no_caption"  # no caption, or an empty one
    MISSING = "missing"  # a table or a list names a video that does not exist
    BAD_ROW = "bad_row"  # a row of a table that cannot be read, and so names no video
    OUTSIDE = "outside"  # a table names a path that may not be read: not in the source, or another scheme
    EMPTY = "empty"  # zero bytes
    UNREADABLE = "unreadable"  # not a readable file, or the container or codec cannot be opened
    NO_VIDEO = "no_video"  # no video stream
    TRUNCATED = "truncated"  # the header states more frames than there are
    TOO_SHORT = "too_short"  # fewer frames than min_frames, or than the shortest bucket needs
    TOO_LONG = "too_long"  # more frames than max_frames, where such clips are not trimmed
    TOO_SMALL = "too_small"  # would have to be upscaled, or is below minimum_image_size
    ASPECT = "aspect"  # longer over shorter side is beyond max_aspect_ratio
    HDR = "hdr"  # PQ or HLG, where bucket.hdr is reject
    INTERLACED = "interlaced"  # where bucket.interlaced is reject
    COLOR = "color"  # a coding of colours that nothing here converts
    DUPLICATE = "duplicate"  # another clip of its data set has the same content
    NO_MASK = "no_mask"  # it has none, where masks.missing is reject
    MASK_SIZE = "mask_size"  # its mask has another aspect ratio
    MASK_LENGTH = "mask_length"  # its mask is a video of another length
    MASK_EMPTY = "mask_empty"  # the loss would look nowhere in it, where masks.empty is reject
    KILLED_WORKER = "killed_worker"  # crashed the process that decoded it, twice


def column(name: str, kind: pa.DataType, about: str) -> pa.Field:
    """Declare a column without nulls; its meaning, with the unit, is stored in every file."""
    return pa.field(name, kind, nullable=False, metadata={"about": about})


# Columns added after the addresses were frozen: name -> neutral value, which changes nothing about a row. A column
# that is neutral in every row stays out of content digests, and a row that is neutral keeps its sample key.
ADDED_COLUMNS: Mapping[str, str | int | float | bool] = {"treatment": ""}

# What is done to the frames of a clip beside cropping and resizing, in this order: deinterlaced by bwdif; and colours
# tone-mapped from PQ or HLG, or read by a matrix that the file does not name. "": nothing, they are used as tagged.
TREATMENTS = tuple(
    "+".join(filter(None, (fields, colors)))
    for fields in ("", "bwdif")
    for colors in ("", "pq", "hlg", "bt709", "bt2020")
)

CLIPS = pa.schema(
    [
        column("clip_id", pa.string(), "digest of data set id and relative path"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("source_id", pa.string(), "what the clip was cut from; one source is never in both splits"),
        column("path", pa.string(), "path of the video relative to the data set's source; or s3://, from a table"),
        column("num_bytes", pa.int64(), "size of the video file, bytes"),
        column("digest", pa.string(), "digest of the video file's content"),
    ]
)
CAPTIONS = pa.schema(
    [
        column("clip_id", pa.string(), "the clip it describes"),
        column("captions", pa.list_(pa.string()), "final texts, alternatives; one is drawn per training step"),
    ]
)
MASK_FILES = pa.schema(
    [
        column("clip_id", pa.string(), "the clip whose mask it is"),
        column("path", pa.string(), "path of the mask relative to the data set's source; or s3://, from a table"),
        column("num_bytes", pa.int64(), "size of the file, bytes"),
        column("digest", pa.string(), "digest of the file's content"),
    ]
)
VIDEO_FACTS = [
    column("width", pa.int32(), "display width, pixels, after rotation and sample aspect"),
    column("height", pa.int32(), "display height, pixels, after rotation and sample aspect"),
    column("rotation_deg", pa.int32(), "counter-clockwise turn that brings it upright: 0, 90, 180 or 270"),
    column("sample_aspect", pa.float64(), "width of a stored pixel over its height; 1 if within a percent of it"),
    column("fps", pa.float64(), "average source rate by presentation times, frames per second"),
    column("nominal_fps", pa.float64(), "rate the stream is made for (ffprobe's r_frame_rate), 0: not stated"),
    column("variable_fps", pa.bool_(), "whether presentation times leave a constant rate"),
    column("num_frames", pa.int32(), "frames in the file, counted; those that an edit list hides are not"),
    column("duration_s", pa.float64(), "seconds from the first frame to the end of the last: num_frames / fps"),
    column("codec", pa.string(), "codec of the video stream"),
    column("pixel_format", pa.string(), "pixel format of the video stream"),
    column("bit_depth", pa.int32(), "bits per component"),
    column("color_space", pa.string(), "matrix of the colours, as ffprobe names it, or unknown"),
    column("color_primaries", pa.string(), "primaries of the colours, or unknown"),
    column("color_transfer", pa.string(), "transfer curve of the colours, or unknown"),
    column("color_range", pa.string(), "tv (limited), pc (full) or unknown"),
    column("field_order", pa.string(), "progressive, or tt, bb, tb, bt of interlaced video, or unknown"),
    column("has_audio", pa.bool_(), "whether there is sound"),
]
PROBED = pa.schema([*CLIPS, *VIDEO_FACTS])
# Pool rows: one per video content ever opened, rejected ones included.
PROBES = pa.schema(
    [
        column("digest", pa.string(), "digest of the video file's content"),
        column("reason", pa.string(), "empty, or why the video was rejected"),
        column("detail", pa.string(), "empty, or what was found"),
        *VIDEO_FACTS,
    ]
)
WINDOWS = pa.schema(
    [
        *PROBED,
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("bucket", pa.string(), "frames x height x width the window is cut to"),
        column("start_frame", pa.int32(), "first frame of the window; at window_fps, where that is not 0"),
        column("window_fps", pa.float64(), "rate at which frames are chosen by time; 0: every frame of the file"),
        column("crop_left", pa.float64(), "piece of the upright frame that is used: left edge, display pixels"),
        column("crop_top", pa.float64(), "the same: upper edge"),
        column("crop_width", pa.float64(), "the same: width"),
        column("crop_height", pa.float64(), "the same: height"),
        column("split", pa.string(), "train or eval, by source_id or by the data set's role"),
        column("draws_per_epoch", pa.int32(), "times it stands in an epoch, before its data set's repeats and weight"),
        column("treatment", pa.string(), "one of TREATMENTS: what is done to its fields and colours, or empty"),
    ]
)
# The columns that determine the pixels of a sample, hence its key: the content of the video and how it is cut.
SAMPLE_KEY_COLUMNS = (
    "digest",
    "bucket",
    "start_frame",
    "window_fps",
    "crop_left",
    "crop_top",
    "crop_width",
    "crop_height",
    "treatment",
)
REJECTS = pa.schema(
    [
        column("clip_id", pa.string(), "the clip"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("path", pa.string(), "path of the video relative to the data set's source, or what a table has instead"),
        column("stage", pa.string(), "stage that rejected it"),
        column("reason", pa.string(), "one of a closed list"),
        column("detail", pa.string(), "what was found, in words"),
    ]
)
UNUSED_FILES = pa.schema(
    [
        column("dataset", pa.string(), "id of the data set in the config"),
        column("path", pa.string(), "path of a file that nothing reads, relative to the data set's source"),
        column("num_bytes", pa.int64(), "size of the file, bytes"),
        column("kind", pa.string(), "text: no video has its name; table: no caption layout took it; other"),
    ]
)

# dtypes of stored tensors, and what a safetensors header calls them
HEADER_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}

# The location of one encoded tensor: columns of every index row.
LOCATION = [
    column("shard", pa.string(), "safetensors file, key relative to the root"),
    column("offset", pa.int64(), "first byte of the tensor in the shard"),
    column("num_bytes", pa.int64(), "bytes of the tensor"),
    column("digest", pa.string(), "xxh3-128 of the tensor's bytes"),
    column("dtype", pa.string(), "fp32, fp16 or bf16"),
    column("shape", pa.list_(pa.int64()), "shape of the tensor"),
]
# Pool rows: one per encoded text, one per encoded (or rejected) clip window.
TEXTS = pa.schema(
    [
        column("text_key", pa.string(), "digest of the text and its template"),
        column("text", pa.string(), "the text before the template"),
        column("template", pa.string(), "instruction put before it: video, image or none"),
        column("truncated", pa.bool_(), "true when tokens were cut off"),
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
LATENTS = pa.schema(
    [
        column("sample_key", pa.string(), "digest of what determines its pixels: SAMPLE_KEY_COLUMNS"),
        column("reason", pa.string(), "empty, or why the window could not be encoded"),
        column("detail", pa.string(), "empty, or what was found"),
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
FEATURES = LATENTS
MASKS = pa.schema(
    [
        column("mask_key", pa.string(), "digest of what determines it: the mask, the clip's shape, how it is cut"),
        column("reason", pa.string(), "empty, or why the mask of the window cannot be used"),
        column("detail", pa.string(), "empty, or what was found"),
        column("covered", pa.float64(), "mean weight: the part of the window that the loss looks at"),
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
# Index rows of artifacts: what training reads.
LATENT_INDEX = pa.schema(
    [
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("clip_id", pa.string(), "the clip"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("split", pa.string(), "train or eval"),
        column("draws_per_epoch", pa.int32(), "times it stands in an epoch, before its data set's repeats and weight"),
        column("bucket", pa.string(), "frames x height x width"),
        column("sample_key", pa.string(), "digest of what determines its pixels: SAMPLE_KEY_COLUMNS"),
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
FEATURE_INDEX = pa.schema(
    [
        *[LATENT_INDEX.field(name) for name in ("sample_id", "clip_id", "dataset", "split", "bucket", "sample_key")],
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
CAPTION_INDEX = pa.schema(
    [
        column("role", pa.string(), "train, eval, null, prompt or negative"),
        column("name", pa.string(), "clip_id for train and eval, nickname for prompt, else empty"),
        column("position", pa.int32(), "which of a clip's alternative captions, from 0"),
        *TEXTS,
    ]
)
MASK_INDEX = pa.schema(
    [
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("clip_id", pa.string(), "the clip"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("split", pa.string(), "train or eval"),
        column("bucket", pa.string(), "frames x height x width"),
        column("mask_key", pa.string(), "digest of what determines it: the mask, the clip's shape, how it is cut"),
        column("covered", pa.float64(), "mean weight: the part of the window that the loss looks at"),
        *LOCATION,
        column("provenance", pa.string(), "device and library versions that made it"),
    ]
)
# Losses that the evaluate stage measured: a row per weights, eval sample and noise level.
LOSSES = pa.schema(
    [
        column("weights", pa.string(), "initial, live or ema"),
        column("sample_id", pa.string(), "the eval sample"),
        column("sigma_index", pa.int32(), "noise level, from 0"),
        column("sigma", pa.float64(), "noise level in (0, 1)"),
        column("loss", pa.float64(), "mean squared error of the velocity"),
    ]
)
CONDITION_LOSSES = pa.schema([column("condition", pa.string(), "in every sample"), *LOSSES])
# Of the train artifact.
CLIP_LOSSES = pa.schema(
    [
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("clip_id", pa.string(), "the clip"),
        column("num_draws", pa.int32(), "losses of it that are in the mean"),
        column(
            "normalised_loss", pa.float32(), "mean of loss / mean loss of its noise level at the time; 1: as others"
        ),
        pa.field("stderr", pa.float32(), metadata={"about": "standard error of that mean; null after one draw"}),
    ]
)
SIGMA_HISTOGRAM = pa.schema(
    [
        column("low", pa.float64(), "lower end of the bin of noise levels"),
        column("high", pa.float64(), "its upper end"),
        column("draws", pa.int64(), "samples whose noise level is in it"),
        column("expected_draws", pa.float64(), "what the config's noise levels give of as many samples of each bucket"),
        pa.field("loss", pa.float64(), metadata={"about": "mean of about the last 500 losses in it; null without any"}),
    ]
)
