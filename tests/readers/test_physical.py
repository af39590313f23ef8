import pytest

from tilingseg.readers.physical import metres, physical_pixel_m

APERIO = (
    "Aperio Image Library v11.2.1 \r\n46000x32914 (240x240) JPEG/RGB Q=30|AppMag = 20|"
    "MPP = 0.4990|Left = 25.69"
)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="9" {}/></Image></OME>'
)


def described(text):
    return physical_pixel_m({"TIFFTAG_IMAGEDESCRIPTION": text})


def resolution(x, y, unit):
    tags = {"TIFFTAG_XRESOLUTION": x, "TIFFTAG_YRESOLUTION": y, "TIFFTAG_RESOLUTIONUNIT": unit}
    return physical_pixel_m(tags)


def test_aperio_says_microns_per_pixel():
    assert described(APERIO) == (0.499e-6, 0.499e-6)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5"', (0.25e-6, 0.5e-6)),
        (
            'PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5" PhysicalSizeYUnit="µm"',
            (250e-9, 0.5e-6),
        ),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="pixel" PhysicalSizeY="2"', None),
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
        ('PhysicalSizeX="wide" PhysicalSizeY="0.5"', None),
        ("", None),
    ],
)
def test_ome_says_the_size_and_its_unit(attributes, expected):
    size = described(OME.format(attributes))
    assert size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("20000", "40000", "3 (pixels/cm)"), (0.5e-6, 0.25e-6)),
        (("50800", "50800", "2 (pixels/inch)"), (0.5e-6, 0.5e-6)),
        # Printers, scanners and nothing at all.
        (("72", "72", "2 (pixels/inch)"), None),
        (("2400", "2400", "2 (pixels/inch)"), None),
        (("20000", "20000", "1 (unitless)"), None),
        (("0", "0", "3 (pixels/cm)"), None),
    ],
)
def test_resolution_tags_are_believed_where_they_say_micrometres(tags, expected):
    size = resolution(*tags)
    assert size == (None if expected is None else pytest.approx(expected))


def test_no_tags_say_nothing():
    assert physical_pixel_m({}) is None


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(2, "micrometer", 2e-6), (3, " MM ", 3e-3), (1, "", None), (-1, "m", None)],
)
def test_lengths_are_converted(value, unit, expected):
    assert metres(value, unit) == (None if expected is None else pytest.approx(expected))
