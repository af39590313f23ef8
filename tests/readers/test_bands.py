import pytest

from tilingseg.errors import SceneError
from tilingseg.readers.bands import FileBand, choose_bands
from tilingseg.readers.source import ReadOptions

RGB = ("red", "green", "blue")


def file_bands(*names, colours=()):
    colours = [*colours, *[""] * len(names)]
    return [
        FileBand(index=k + 1, description=name, colour=colours[k], is_alpha=colours[k] == "alpha")
        for k, name in enumerate(names)
    ]


def choose(available, **options):
    chosen, notes = choose_bands(available, ReadOptions(**options), "scene.tif")
    return [band.index for band in chosen], notes


def test_explicit_indexes_win_and_may_repeat():
    assert choose(file_bands(""), bands=(1, 1, 1), band_names=RGB) == ([1, 1, 1], ())


def test_an_index_that_is_not_there_is_named():
    with pytest.raises(SceneError, match=r"no band 4; its bands are 1 red, 2 green, 3 blue"):
        choose(file_bands("red", "green", "blue"), bands=(1, 2, 4))


@pytest.mark.parametrize("bands", [(0, 1), (), (-1,)])
def test_indexes_count_from_one(bands):
    with pytest.raises(SceneError, match="from 1"):
        choose(file_bands("", ""), bands=bands)


def test_the_number_of_indexes_must_fit_the_model():
    with pytest.raises(
        SceneError, match=r"2 bands were chosen \(1,2\).*needs 3 \(red, green, blue"
    ):
        choose(file_bands("", ""), bands=(1, 2), band_names=RGB)


@pytest.mark.parametrize(
    ("names", "colours", "expected"),
    [
        (("", "", ""), ("red", "green", "blue"), [1, 2, 3]),
        (("", "", ""), ("blue", "green", "red"), [3, 2, 1]),
        (("blue", "green", "red", "nir"), (), [3, 2, 1]),
        (("B", "G", "R"), (), [3, 2, 1]),
        (("Band 1: Blue (490 nm)", "Green", "red-edge", "RED"), (), [4, 2, 1]),
        # A writer that fills in colours for whatever comes first is overruled by descriptions.
        (("nir", "red", "green", "blue"), ("red", "green", "blue", ""), [2, 3, 4]),
        (("", "", "", ""), ("red", "green", "blue", "alpha"), [1, 2, 3]),
        (("", "", "", ""), ("alpha", "red", "green", "blue"), [2, 3, 4]),
        # Not named at all: in the order of the file.
        (("", "", "", ""), ("gray", "", "", ""), [1, 2, 3]),
        (("Band 1", "Band 2", "Band 3"), (), [1, 2, 3]),
    ],
)
def test_names_are_found(names, colours, expected):
    assert choose(file_bands(*names, colours=colours), band_names=RGB)[0] == expected


def test_bands_read_in_another_order_are_noted():
    bands = file_bands("", "", "", colours=("blue", "green", "red"))
    assert choose(bands, band_names=RGB)[1] == (
        "Bands 3, 2, 1 are read as red, green, blue, by their names.",
    )


def test_bands_taken_by_position_are_noted():
    notes = choose(file_bands("", "", ""), band_names=RGB)[1]
    assert notes == (
        "Bands taken by their position, not by name: "
        "band 1 as red, band 2 as green, band 3 as blue.",
    )


def test_an_unnamed_band_fills_the_one_name_that_is_missing():
    bands = file_bands("", "", "", "", colours=("red", "green", "blue", ""))
    assert choose(bands, band_names=(*RGB, "nir"))[0] == [1, 2, 3, 4]


def test_a_band_that_is_something_else_is_not_taken():
    with pytest.raises(SceneError, match=r"1 nir, 2 red, 3 green.*none is 'blue'.*--bands 1,2,3"):
        choose(file_bands("nir", "red", "green"), band_names=RGB)


def test_a_description_outranks_the_colour():
    bands = file_bands("nir", "", "", colours=("red", "green", "blue"))
    with pytest.raises(SceneError, match="none is 'red'"):
        choose(bands, band_names=RGB)


def test_too_few_bands_say_how_to_repeat_one():
    with pytest.raises(SceneError, match=r"1 band \(1\).*needs 3.*--bands 1,1,1"):
        choose(file_bands("", colours=("gray",)), band_names=RGB)


def test_a_band_that_is_marked_alpha_by_mistake_can_be_chosen():
    bands = file_bands("", "", "", "", colours=("red", "green", "blue", "alpha"))
    with pytest.raises(SceneError, match=r"3 bands and alpha .*--bands 1,2,3,4"):
        choose(bands, band_names=(*RGB, "nir"))
    assert choose(bands, bands=(1, 2, 3, 4), band_names=(*RGB, "nir"))[0] == [1, 2, 3, 4]


def test_a_model_of_one_band_takes_the_first():
    assert choose(file_bands("red", "green", "blue"), band_names=("em",))[0] == [1]


def test_a_model_without_names_takes_bands_in_order():
    assert choose(file_bands("red", "green"), band_names=("band 1", "band 2"))[0] == [1, 2]


def test_without_wishes_every_band_but_alpha_is_read():
    bands = file_bands("", "", "", colours=("red", "alpha", "green"))
    assert choose(bands) == ([1, 3], ())


def test_alpha_alone_is_refused():
    with pytest.raises(SceneError, match="nothing to segment"):
        choose(file_bands("", colours=("alpha",)))


def test_names_travel_with_the_bands():
    chosen, _ = choose_bands(
        file_bands("", "", "x", colours=("blue", "green", "")), ReadOptions(), "scene.tif"
    )
    assert [band.name for band in chosen] == ["blue", "green", "x"]
