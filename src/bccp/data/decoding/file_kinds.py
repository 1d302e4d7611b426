"""What a file is that is read as no image, by its first bytes, and what to do about it."""

from __future__ import annotations

HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"})
"""Major brands of HEIF files, which iPhones and Samsung phones write; AVIF has brands of its own."""

_HEIC = "HEIC/HEIF picture: to read it, pip install 'bccp[heic]' (pi-heif), or convert it to JPEG"
RAW = "camera raw file: develop it and export it as JPEG, PNG or TIFF"
_VIDEO = "video: export its frames as JPEG or PNG"
_ARCHIVE = "archive: unpack it, or give it as data.source=archive"
_DOCUMENT = "document: export its pages or pictures as PNG or JPEG"
_ARRAY = "scientific array: save it as 16-bit PNG or float TIFF"

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\x00\x10\x00\x00\x00CR", f"{RAW} (Canon CR2)"),
    (0, b"II\x1a\x00\x00\x00HEAPCCDR", f"{RAW} (Canon CRW)"),
    (0, b"FUJIFILMCCD-RAW", f"{RAW} (Fujifilm RAF)"),
    (0, b"IIRO", f"{RAW} (Olympus ORF)"),
    (0, b"IIRS", f"{RAW} (Olympus ORF)"),
    (0, b"MMOR", f"{RAW} (Olympus ORF)"),
    (0, b"IIU\x00", f"{RAW} (Panasonic RW2)"),
    (0, b"\x00MRM", f"{RAW} (Minolta MRW)"),
    (0, b"FOVb", f"{RAW} (Sigma X3F)"),
    (0, b"8BPS", "Photoshop file (PSD): export it as PNG, TIFF or JPEG"),
    (0, b"gimp xcf", "GIMP file (XCF): export it as PNG, TIFF or JPEG"),
    (0, b"%PDF-", f"PDF {_DOCUMENT}"),
    (0, b"%!PS", "not an image: PostScript; export it as PNG or JPEG"),
    (0, b"\xc5\xd0\xd3\xc6", "not an image: PostScript; export it as PNG or JPEG"),
    (0, b"{\\rtf", f"RTF {_DOCUMENT}"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"Office {_DOCUMENT}"),
    (0, b"version https://git-lfs.github.com/spec/", "git-LFS pointer, not the file itself: fetch the files by git lfs pull"),
    (0, b"\xff\x0a", "JPEG XL picture: convert it to PNG or JPEG"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL picture: convert it to PNG or JPEG"),
    (0, b"II\xbc\x01", "JPEG XR picture: convert it to PNG or TIFF"),
    (0, b"DDS ", "DDS texture: convert it to PNG"),
    (0, b"#?RADIANCE", "Radiance HDR picture: convert it to PNG or TIFF"),
    (0, b"v/1\x01", "OpenEXR picture: convert it to PNG or float TIFF"),
    (0, b"icns", "icon of macOS (ICNS): convert it to PNG"),
    (128, b"DICM", "DICOM file: export its picture as 16-bit PNG or TIFF"),
    (0, b"SIMPLE  =", f"FITS {_ARRAY}"),
    (0, b"\x89HDF\r\n\x1a\n", f"HDF5 {_ARRAY}"),
    (0, b"\x93NUMPY", f"NumPy {_ARRAY}"),
    (344, b"n+1\x00", f"NIfTI {_ARRAY}"),
    (0, b"\x1f\x8b", f"gzip {_ARCHIVE}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"7-Zip {_ARCHIVE}"),
    (0, b"Rar!\x1a\x07", f"RAR {_ARCHIVE}"),
    (0, b"PK\x03\x04", f"zip {_ARCHIVE}"),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\x00\x00\x01\xba", _VIDEO),
    (0, b"bplist00", "property list of macOS, perhaps a file that iCloud has not downloaded: download the picture itself"),
    (0, b"\x00\x05\x16\x07", "resource fork of macOS, not the picture itself: leave the ._ files out"),
    (0, b"L\x00\x00\x00\x01\x14\x02\x00", "shortcut of Windows, not the picture itself: copy the picture"),
)
"""Offset, bytes there, and what the file is."""

_TEXT: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "web page saved as an image: download the picture itself"),
    (b"<html", "web page saved as an image: download the picture itself"),
    (b"<head", "web page saved as an image: download the picture itself"),
    (b"<svg", "SVG drawing: export it as PNG"),
    (b"<?xml", "XML text, perhaps a server's error message or an SVG drawing: download the picture itself, or export it as PNG"),
    (b"<error", "XML text, perhaps a server's error message: download the picture itself"),
    (b'{"', "JSON text, perhaps a server's error message: download the picture itself"),
    (b"data:image/", "data URL, not the picture itself: decode its base64"),
)
"""How text begins, in lower case and without white space before it, and what the file is."""

_HEAD = 512


def kind_of(data: bytes) -> str:
    """Say what a file is that is no image of a format that is read.

    Parameters
    ----------
    data : bytes
        A file, or its first 512 bytes.

    Returns
    -------
    str
        What it is and what to do about it, ``kind: remedy``; empty where it is not recognised.

    Examples
    --------
    >>> kind_of(b"%PDF-1.7")
    'PDF document: export its pages or pictures as PNG or JPEG'
    >>> kind_of(b"GIF89a")
    ''
    """
    head = data[:_HEAD]
    if data and not any(head):
        return "only zero bytes: the file was lost or never written; copy it again"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in HEIC_BRANDS:
            return _HEIC
        if brand == b"crx ":
            return f"{RAW} (Canon CR3)"
        return "" if brand in (b"avif", b"avis") else _VIDEO
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "SVG drawing: export it as PNG"
    if text.startswith(b"<?xml") and b"<html" in text:
        return "web page saved as an image: download the picture itself"
    return next((kind for start, kind in _TEXT if text.startswith(start)), "")


def is_heic(data: bytes) -> bool:
    """Return True for a file of the HEIF family, which Pillow reads with pi-heif alone."""
    return data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS
