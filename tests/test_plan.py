import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilingseg.errors import PlanError
from tilingseg.model.spec import Geometry, ModelSpec
from tilingseg.plan import ModelUse, RunPlan, estimate_run, plan_identity
from tilingseg.records import Band, Georef, Scene, describe_changes
from tilingseg.tiling import (
    BASE_BYTES,
    EXACT_FACTOR,
    PASS_BYTES,
    REGION_PX,
    PassLimits,
    TilingOptions,
    plan_tiles,
)

SPEC = ModelSpec(
    name="test",
    network="unet",
    network_options=(("features", (4, 8)),),
    bands=("red",),
    classes=("building", "road"),
    thresholds=(0.5, 0.5),
    gsd_m=0.5,
    mean=(0.0,),
    std=(1.0,),
)
EXACT = Geometry(multiple_px=16, halo_px=96, reason=None, bytes_per_px=60.0)
BLENDED = Geometry(multiple_px=16, halo_px=None, reason="it has InstanceNorm", bytes_per_px=60.0)


def make_scene(height=5000, width=7000):
    georef = Georef(crs="EPSG:32633", transform=(0.5, 0, 0, 0, -0.5, 0), pixel_m=(0.5, 0.5))
    return Scene(
        uri="scene.tif",
        name="scene",
        revision="1",
        height=height,
        width=width,
        bands=(Band(index=1, name="red"),),
        dtype="uint8",
        georef=georef,
        source=georef,
        source_shape=(height, width),
    )


def make_plan(scene=None, options=None, geometry=EXACT, extent=None):
    scene = scene or make_scene()
    tiling = plan_tiles(scene, geometry, options or TilingOptions(), 512)
    return RunPlan(
        software="0",
        scene=scene,
        model=ModelUse(
            spec=SPEC,
            sha256="0" * 64,
            class_indexes=(0, 1),
            thresholds=(0.5, 0.5),
            device_type="cpu",
            engine="torch",
            engine_version="2.13.0",
            precision="fp32",
        ),
        tiling=tiling,
        extent=extent or tiling.grid.scene_window,
    )


class TestTiles:
    def test_are_stitched_exactly_where_the_network_allows_it(self):
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(), 512)
        assert tiling.stitching == "exact"
        assert tiling.grid.overlap_px == 192

    def test_are_large_enough_that_halos_cost_little(self):
        grid = plan_tiles(make_scene(40_000, 40_000), EXACT, TilingOptions(), 512).grid
        height, width = grid.tile_shape
        assert len(grid) * height * width <= 1.45 * 40_000**2

    def test_may_be_smaller_where_halos_cost_little(self):
        huge, options = make_scene(16_000, 16_000), TilingOptions(memory_bytes=10**10)
        whole = plan_tiles(huge, EXACT, options, 512)
        cut = plan_tiles(huge, replace(EXACT, core_share=1.0), options, 512)
        # without a price for halos, what counts is how the cores fit the scene
        assert cut.grid.tile_size_px < whole.grid.tile_size_px

    def test_fit_the_memory(self):
        huge = make_scene(40_000, 40_000)
        large = plan_tiles(huge, EXACT, TilingOptions(memory_bytes=10**10), 512)
        options = TilingOptions(memory_bytes=150_000_000)
        small = plan_tiles(huge, EXACT, options, 512)
        assert small.forward_bytes <= options.memory_bytes
        assert small.grid.tile_size_px < large.grid.tile_size_px

    @pytest.mark.parametrize("side", [1400, 2000, 2600, 3400, 4800, 9000])
    def test_need_no_more_memory_than_a_pass_may_use(self, side):
        tiling = plan_tiles(make_scene(side, side), EXACT, TilingOptions(), 512)
        assert tiling.forward_bytes <= PASS_BYTES

    @pytest.mark.parametrize("side", [1000, 1500, 2500, 4000])
    def test_of_a_scene_of_some_megapixels_waste_no_more_than_those_of_a_large_one(self, side):
        bundled = Geometry(
            multiple_px=32, halo_px=192, reason=None, bytes_per_px=32.0, core_share=0.58
        )
        grid = plan_tiles(make_scene(side, side), bundled, TilingOptions(), 512).grid
        height, width = grid.tile_shape
        assert len(grid) * height * width <= 1.8 * side**2

    def test_need_the_same_memory_for_a_scene_sixteen_times_as_large(self):
        for halo_px, multiple_px, bytes_per_px in ((96, 16, 256.0), (24, 4, 64.0), (192, 32, 32.0)):
            geometry = Geometry(
                halo_px=halo_px,
                multiple_px=multiple_px,
                reason=None,
                bytes_per_px=bytes_per_px,
                core_share=0.6,
            )
            small, large = (
                plan_tiles(make_scene(side, side), geometry, TilingOptions(), 512).forward_bytes
                for side in (4096, 16384)
            )
            assert BASE_BYTES + large <= 1.05 * (BASE_BYTES + small)

    def test_need_about_the_same_memory_for_all_scenes_beyond_a_few_megapixels(self):
        bundled = Geometry(
            multiple_px=32, halo_px=192, reason=None, bytes_per_px=32.0, core_share=0.58
        )
        options = TilingOptions(batch_size=1)
        needed = [
            plan_tiles(make_scene(height, width), bundled, options, 512).forward_bytes
            for height, width in (
                *((1146, 1491), (2292, 2982), (3500, 3500), (4096, 4096), (8192, 8192)),
                *((16384, 16384), (8192, 65536), (100_000, 100_000)),
            )
        ]
        assert BASE_BYTES + max(needed) <= 1.2 * (BASE_BYTES + min(needed))

    @pytest.mark.parametrize(("height", "width"), [(4096, 4096), (3000, 5000), (1000, 5000)])
    def test_are_no_larger_than_their_number_needs(self, height, width):
        grid = plan_tiles(make_scene(height, width), EXACT, TilingOptions(), 512).grid
        smaller = replace(grid, tile_size_px=grid.tile_size_px - grid.multiple_px)
        assert len(smaller) > len(grid) > 1

    def test_without_a_halo_are_whole_blocks_of_files(self):
        flat = replace(EXACT, halo_px=0, multiple_px=1)
        assert plan_tiles(make_scene(), flat, TilingOptions(), 512).grid.tile_size_px % 128 == 0

    def test_of_one_scene_cost_no_less_than_the_scene(self):
        reason = plan_tiles(make_scene(600, 600), EXACT, TilingOptions(), 512).reasons.tile
        assert reason.startswith("the whole scene in one: 1.0")

    def test_are_blended_where_exact_ones_need_many_times_the_memory(self):
        far = replace(EXACT, halo_px=1024, bytes_per_px=400.0)
        tiling = plan_tiles(make_scene(), far, TilingOptions(), 512)
        assert tiling.stitching == "hann"
        assert "exact tiles of this network need 5,733 MB" in tiling.reason
        insisted = plan_tiles(make_scene(), far, TilingOptions(blend="exact"), 512)
        assert insisted.stitching == "exact"
        assert insisted.forward_bytes > EXACT_FACTOR * PASS_BYTES
        enough = plan_tiles(
            make_scene(), far, TilingOptions(), 512, PassLimits(memory_bytes=10**10)
        )
        assert enough.stitching == "exact"

    def test_are_blended_with_the_reason_where_the_network_does_not_allow_it(self):
        tiling = plan_tiles(make_scene(), BLENDED, TilingOptions(), 512)
        assert (tiling.stitching, tiling.reason) == ("hann", "it has InstanceNorm")
        assert (tiling.grid.tile_size_px, tiling.grid.overlap_px) == (512, 128)

    def test_are_blended_where_the_overlap_is_too_small(self):
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(overlap_px=64), 512)
        assert tiling.stitching == "hann"
        assert "192 px" in tiling.reason

    def test_are_blended_where_the_tile_has_no_room_for_a_core(self):
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(tile_size_px=192), 512)
        assert tiling.stitching == "hann"

    def test_one_small_tile_may_cover_a_small_scene(self):
        tiling = plan_tiles(make_scene(90, 70), EXACT, TilingOptions(tile_size_px=128), 512)
        assert tiling.stitching == "exact"
        assert len(tiling.grid) == 1

    @pytest.mark.parametrize(
        ("geometry", "options", "words"),
        [
            (BLENDED, {"blend": "exact"}, "InstanceNorm.*--blend hann"),
            (EXACT, {"blend": "exact", "overlap_px": 32}, "overlap is 32 px.*192"),
            (EXACT, {"blend": "exact", "tile_size_px": 160}, "no core"),
            (EXACT, {"batch_size": 0}, "batch size must be 1 or more, got 0"),
            (EXACT, {"tile_size_px": 500}, "no multiple of 16; use 496"),
            (EXACT, {"overlap_px": 100}, "no multiple of 32; use 128 to blend tiles or 192 to sti"),
            (EXACT, {"overlap_px": 200}, "no multiple of 32; use 224$"),
            (BLENDED, {"overlap_px": 100}, "no multiple of 32; use 128$"),
        ],
    )
    def test_contradicting_wishes_are_refused(self, geometry, options, words):
        with pytest.raises(PlanError, match=words):
            plan_tiles(make_scene(), geometry, TilingOptions(**options), 512)


class TestBatches:
    def test_fill_the_memory_of_a_large_device(self):
        scene = make_scene(20_000, 20_000)
        small = plan_tiles(scene, EXACT, TilingOptions(), 512)
        large = plan_tiles(scene, EXACT, TilingOptions(), 512, PassLimits(memory_bytes=10**10))
        assert large.batch_size == PassLimits().batch_size > small.batch_size
        assert large.forward_bytes <= 10**10
        assert small.forward_bytes <= PASS_BYTES
        assert "more gain nothing" in large.reasons.batch
        assert "300 MB" in small.reasons.batch

    @pytest.mark.parametrize("wish", [2, 64, 10**9])
    def test_are_no_larger_than_a_row_of_tiles(self, wish):
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(batch_size=wish), 512)
        assert tiling.batch_size == min(wish, tiling.grid.n_cols)
        assert tiling.forward_bytes <= tiling.grid.n_cols * PASS_BYTES
        assert tiling.reasons.batch == (
            "asked for" if wish == 2 else "a row of tiles holds no more"
        )

    def test_are_of_one_tile_where_a_device_gains_nothing_by_more(self):
        limits = PassLimits(batch_size=1, why="a processor gains nothing by more")
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(), 512, limits)
        assert (tiling.batch_size, tiling.reasons.batch) == (1, limits.why)


class TestReasons:
    def test_name_work_and_memory_of_the_tiles(self):
        tiling = plan_tiles(make_scene(), EXACT, TilingOptions(), 512)
        assert f"{tiling.forward_bytes / tiling.batch_size / 1e6:.0f} MB" in tiling.reasons.tile
        assert "× the scene's work" in tiling.reasons.tile

    def test_say_what_was_asked_for(self):
        options = TilingOptions(tile_size_px=512, batch_size=1, region_px=2048)
        reasons = plan_tiles(make_scene(), EXACT, options, 512).reasons
        assert (reasons.batch, reasons.region) == ("asked for", "asked for")
        # 16 × 22 tiles of 512 px for 5,000 × 7,000 px
        assert reasons.tile.startswith("asked for: 2.68 × the scene's work, ")

    def test_of_blended_tiles_are_what_the_model_was_trained_with(self):
        tile = plan_tiles(make_scene(), BLENDED, TilingOptions(), 512).reasons.tile
        assert tile.startswith("as in training: 1.88 × the scene's work")

    def test_say_where_memory_is_what_keeps_tiles_small(self):
        options = TilingOptions(memory_bytes=60_000_000)
        tiling = plan_tiles(make_scene(40_000, 40_000), EXACT, options, 512)
        assert "larger ones need more than 60 MB" in tiling.reasons.tile

    def test_are_no_part_of_what_makes_plans_equal(self):
        assert "reasons" not in plan_identity(make_plan())["tiling"]


class TestEstimate:
    def test_of_two_workers_on_one_processor_takes_as_long_and_twice_the_memory(self):
        plan = make_plan()
        one, two = (estimate_run(plan, 1.0, 2, n_devices=n) for n in (1, 2))
        assert two.seconds == one.seconds
        assert two.memory_bytes - one.memory_bytes > plan.tiling.forward_bytes

    def test_of_two_gpus_takes_half_the_time(self):
        plan = make_plan()
        plan = replace(plan, model=replace(plan.model, device_type="cuda"))
        one, two = (estimate_run(plan, 1.0, 2, n_devices=n) for n in (1, 2))
        assert two.seconds == one.seconds / 2
        assert two.device_bytes == one.device_bytes > plan.tiling.forward_bytes
        on_cpu = estimate_run(make_plan(), 1.0, 2)
        assert on_cpu.device_bytes == 0
        # the network is not in the host's memory, where more is read ahead for it
        assert 0 < on_cpu.memory_bytes - one.memory_bytes < one.device_bytes


class TestRegions:
    @given(st.integers(1, 20_000), st.integers(1, 20_000), st.booleans())
    def test_tile_the_scene_in_whole_chunks(self, height, width, blended):
        plan = make_plan(make_scene(height, width), geometry=BLENDED if blended else EXACT)
        area = 0
        for region in plan.regions():
            core = region.core
            area += core.area
            assert core.row % plan.chunk_px == 0
            assert core.col % plan.chunk_px == 0
            assert core.row_stop % plan.chunk_px == 0 or core.row_stop == height
            assert core.col_stop % plan.chunk_px == 0 or core.col_stop == width
        assert area == height * width
        assert len(list(plan.regions())) == plan.n_regions

    @pytest.mark.parametrize("geometry", [EXACT, BLENDED])
    def test_select_every_tile_that_reaches_them(self, geometry):
        plan = make_plan(geometry=geometry)
        for region in plan.regions():
            chosen = {tile.index for row in plan.tile_rows(region) for tile in row}
            exact = plan.tiling.stitching == "exact"
            needed = {
                tile.index
                for tile in plan.grid
                if (tile.core if exact else tile.window).intersection(region.core)
            }
            assert chosen == needed

    @pytest.mark.parametrize(
        ("height", "width", "least", "most"),
        [(300, 400, 1, 1), (2300, 2980, 2, 16), (9000, 9000, 9, 25), (65536, 65536, 225, 361)],
    )
    def test_what_is_lost_with_a_kill_is_a_share_of_the_scene(self, height, width, least, most):
        plan = make_plan(make_scene(height, width))
        assert least <= plan.n_regions <= most
        assert plan.region_px <= 1.2 * REGION_PX
        n_tiles = sum(plan.count_tiles(region) for region in plan.regions())
        assert n_tiles == len(plan.grid)  # none is inferred twice

    def test_blended_regions_stay_large(self):
        plan = make_plan(make_scene(9000, 9000), TilingOptions(blend="hann"))
        n_tiles = sum(plan.count_tiles(region) for region in plan.regions())
        assert n_tiles < 1.4 * len(plan.grid)

    def test_exact_regions_share_no_tile(self):
        plan = make_plan()
        chosen = [t.index for g in plan.regions() for row in plan.tile_rows(g) for t in row]
        assert len(chosen) == len(set(chosen)) == len(plan.grid)

    def test_of_an_area_are_those_that_touch_it(self):
        whole = make_plan(make_scene(20_000, 20_000))
        extent = replace(whole.extent, row=9000, col=100, height=100, width=9000)
        part = make_plan(make_scene(20_000, 20_000), extent=extent)
        indexes = [r.index for r in whole.regions() if r.core.intersection(extent)]
        assert [r.index for r in part.regions()] == indexes
        assert part.n_regions == len(indexes) < whole.n_regions

    def test_of_a_terapixel_are_counted_without_being_listed(self):
        plan = make_plan(make_scene(10**6, 10**6))
        assert plan.n_regions > 40_000
        last = plan.region(plan.n_region_rows * plan.n_region_cols - 1)
        assert (last.core.row_stop, last.core.col_stop) == (10**6, 10**6)


class TestIdentity:
    def test_survives_json(self):
        identity = plan_identity(make_plan())
        assert json.loads(json.dumps(identity)) == json.loads(json.dumps(identity))
        assert describe_changes(json.loads(json.dumps(identity)), identity) == []

    def test_names_what_changed(self):
        before = plan_identity(make_plan())
        after = plan_identity(make_plan(options=TilingOptions(batch_size=3)))
        changes = describe_changes(before, after)
        assert any(change.startswith("tiling.batch_size: ") for change in changes)

    def test_plans_are_hashable(self):
        assert len({make_plan(), make_plan(), make_plan(make_scene(50, 50))}) == 2
