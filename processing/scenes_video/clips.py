"""Encode drawn frames as the bytes of a video file."""

import functools
import io
from collections.abc import Sequence

from PIL import Image

from processing.extras import install_hint

FRAME_RATE = 8
# The first one that PyAV was built with; the options ask for a picture that is close to the drawn one. What x264 plans
# for later frames (mbtree) differs from run to run, even in one thread: of 6,000 equal clips, 308 were others.
CODECS = {
    "libx264": {"preset": "veryfast", "crf": "14", "x264-params": "mbtree=0"},
    "mpeg4": {"qscale": "3"},
}


@functools.cache
def find_codec() -> str:
    """The name of the video encoder.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: it has none of the encoders that clips are made with.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"making clips needs PyAV: {install_hint('data')}.") from error
    for name in CODECS:
        if name in av.codecs_available:
            return name
    raise ValueError(f"PyAV must have one of the encoders {list(CODECS)}, it has none; take form 'features'.")


def encode_clip(frames: Sequence[Image.Image]) -> bytes:
    """An mp4 file at `FRAME_RATE` frames a second.

    Args:
        frames: RGB images of one even size.
    """
    codec = find_codec()
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FRAME_RATE, options=CODECS[codec])
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        # With more threads the bytes would depend on the number of cores.
        stream.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return buffer.getvalue()
