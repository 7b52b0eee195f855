from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from diffusionpose.config import ModelConfig
from diffusionpose.data.clips import (
    ClipDataset,
    ClipRecord,
    EpochSampler,
    jitter_frames,
    read_image,
)
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.data.transforms import augment_clip
from diffusionpose.errors import DataError
from diffusionpose.nn.geometry import transform
from diffusionpose.nn.heatmaps import heatmap_to_crop
from diffusionpose.recipe import AugmentConfig
from diffusionpose.skeleton import POSETRACK15
from tests.data.made import coco_root, posetrack_root

CONFIG = ModelConfig()
QUIET = AugmentConfig(flip=0, half_body=0, colour=0, grey=0, blur=0, occlusion=0, still_motion=0)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_posetrack(posetrack_root(tmp_path_factory.mktemp("posetrack")), "val")


def test_keypoints_come_back_to_the_image(records):
    dataset = ClipDataset(records, CONFIG)
    clip = dataset[0]
    assert clip["images"].shape == (3, 3, 256, 192)
    assert clip["images"].dtype == torch.uint8
    crop = heatmap_to_crop(clip["keypoints"]).double().numpy()
    back = transform(crop, clip["to_image"].numpy())
    np.testing.assert_allclose(back, records[0].keypoints, atol=1e-3)


def colour_at(image, point):
    x, y = np.rint(point).astype(int)
    return image[:, y, x].int()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_augmented_keypoints_stay_on_their_limbs(records, flip):
    # Left limbs are orange, right ones blue: a wrong map or a missing swap would be detected.
    augment = QUIET.model_copy(update={"flip": flip})
    dataset = ClipDataset(records, CONFIG, augment)
    checked = 0
    for epoch in range(4):
        for index in range(len(records)):
            clip = dataset[epoch, 0, index]
            points = heatmap_to_crop(clip["keypoints"]).numpy()
            for side, warm in (("left", True), ("right", False)):
                ends = [points[POSETRACK15.index(f"{side}_{joint}")] for joint in ("hip", "knee")]
                middle = sum(ends) / 2
                if not ((middle > 2) & (middle < [189, 253])).all():
                    continue
                red, _, blue = colour_at(clip["images"][1], middle).tolist()
                # In a mirrored image, colours change sides, and so must the names of joints.
                assert (red > blue) == (warm != bool(flip))
                checked += 1
    assert checked > 40


def test_same_seed_epoch_and_index_give_the_same_clip_whatever_the_order(records):
    first, second = (ClipDataset(records, CONFIG, AugmentConfig(), seed=3) for _ in range(2))
    keys = [(0, 0, 1), (2, 0, 5), (1, 0, 1), (0, 1, 1)]
    clips = {key: first[key] for key in keys}
    for key in reversed(keys):
        assert torch.equal(second[key]["images"], clips[key]["images"])
        assert torch.equal(second[key]["keypoints"], clips[key]["keypoints"])
    assert not torch.equal(clips[0, 0, 1]["images"], clips[1, 0, 1]["images"])
    assert not torch.equal(clips[0, 0, 1]["images"], clips[0, 1, 1]["images"])


def test_stills_get_motion_and_videos_keep_theirs(tmp_path, records):
    stills = load_coco(coco_root(tmp_path), Path("train.json"), Path("images"))
    moving = QUIET.model_copy(update={"still_motion": 0.05})
    images = ClipDataset(stills, CONFIG, moving)[0, 0, 0]["images"].float()
    assert (images[0] - images[1]).abs().mean() > 1
    assert (images[2] - images[1]).abs().mean() > 1
    for dataset in (ClipDataset(stills, CONFIG, QUIET), ClipDataset(stills, CONFIG)):
        images = dataset[0, 0, 0]["images"]
        assert torch.equal(images[0], images[1])


def test_occluders_and_blur_change_pixels_not_keypoints(records):
    loud = QUIET.model_copy(update={"occlusion": 1.0, "blur": 1.0, "colour": 0.4, "grey": 0.5})
    image = read_image(records[0].frames[1])
    results = [
        augment_clip(
            [image] * 3, records[0].keypoints, records[0].box, CONFIG, augment,
            np.random.default_rng(0), still=False,
        )
        for augment in (QUIET, loud)
    ]  # fmt: skip
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert np.abs(results[0][0][1].astype(int) - results[1][0][1]).mean() > 5


def test_a_truncated_picture_ends_within_the_person_who_then_fills_the_crop(records):
    image = np.full_like(read_image(records[0].frames[1]), 255)
    cut = QUIET.model_copy(
        update={"truncation": 1.0, "scale": 0.0, "shift": 0.0, "rotation_share": 0.0}
    )
    known = np.isfinite(records[0].keypoints[:, 0])
    num_cut = 0
    for seed in range(30):
        crops, points, to_image = augment_clip(
            [image] * 3, records[0].keypoints, records[0].box, CONFIG, cut,
            np.random.default_rng(seed), still=False,
        )  # fmt: skip
        kept = np.isfinite(points[:, 0])
        np.testing.assert_allclose(
            transform(points, to_image)[kept], records[0].keypoints[kept], atol=1e-6
        )
        # Remaining joints lie within the image, removed ones beyond its new edge.
        for x, y in points[kept]:
            if 0 <= round(x) < 192 and 0 <= round(y) < 256:
                assert crops[1][round(y), round(x)].min() > 0
        assert kept.sum() >= 4
        assert not (kept & ~known).any()
        num_cut += kept.sum() < known.sum()
    assert num_cut > 10


def test_occluders_can_be_cut_out_of_another_picture(records):
    loud = QUIET.model_copy(update={"occlusion": 1.0, "occluder_texture": 1.0})
    image, other = np.zeros((240, 320, 3), np.uint8), np.zeros((240, 320, 3), np.uint8)
    other[..., 1] = 200
    crops, _, _ = augment_clip(
        [image] * 3, records[0].keypoints, records[0].box, CONFIG, loud,
        np.random.default_rng(0), still=False, other=other,
    )  # fmt: skip
    colours = np.unique(crops[1].reshape(-1, 3), axis=0).tolist()
    assert colours == [[0, 0, 0], [0, 200, 0]]
    dataset = ClipDataset(records, CONFIG, loud)
    assert torch.equal(dataset[0, 0, 1]["images"], dataset[0, 0, 1]["images"])


def test_single_frame_models_get_the_key_frame(records):
    config = CONFIG.model_copy(update={"num_frames": 1})
    one, three = ClipDataset(records, config)[2], ClipDataset(records, CONFIG)[2]
    assert torch.equal(one["images"][0], three["images"][1])


def test_sampler_order_follows_seed_and_epoch_and_shares():
    sampler = EpochSampler(np.array([1.0] * 10 + [0.3] * 10 + [2.0] * 5), seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 10 + 3 + 10
    assert first == list(sampler)
    assert len(set(first)) == len(first)
    counts = np.bincount([index for _, _, index in first], minlength=25)
    assert (counts[:10] == 1).all()
    assert counts[10:20].sum() == 3
    assert (counts[20:] == 2).all()
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert {epoch for epoch, _, _ in sampler} == {1}


def test_shares_of_different_sources_do_not_shift_each_other():
    sampler = EpochSampler(np.array([0.1] * 100 + [0.45] * 100 + [1.95] * 100))
    drawn = np.zeros(3)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn += np.bincount([index // 100 for _, _, index in sampler], minlength=3)
    assert (drawn / 20).tolist() == [10, 45, 195]


@pytest.mark.parametrize("name", ["nothing.jpg", "nothing\0.jpg", "nothing\ud800", "nothing" * 99])
def test_missing_images_are_named(tmp_path, name):
    with pytest.raises(DataError, match=r"nothing.*: no such file"):
        read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_whatever_the_number_of_workers(records):
    augment = AugmentConfig(frame_jitter=0.5)

    def batches(workers):
        dataset = ClipDataset(records, CONFIG, augment, seed=5)
        sampler = EpochSampler(np.full(len(records), 1.5), seed=5)
        sampler.set_epoch(2)
        return list(DataLoader(dataset, 4, sampler=sampler, num_workers=workers))

    expected = batches(0)
    assert sum(len(batch["index"]) for batch in expected) == 15
    for workers in (1, 3):
        for found, batch in zip(batches(workers), expected, strict=True):
            assert found.pop("video") == batch["video"]
            for key in found:
                value = batch[key]
                assert torch.equal(found[key].nan_to_num(), value.nan_to_num()), key


def jitter_record(further):
    before, key, after = (Path(f"{n}.jpg") for n in (4, 5, 6))
    blank = np.zeros(0)
    return ClipRecord((before, key, after), blank, blank, "video", 5, 0, further=further)


def test_frame_jitter_takes_further_frames_or_the_key_frame():
    record = jitter_record((Path("3.jpg"), Path("7.jpg")))
    rng = np.random.default_rng(0)
    drawn = [[int(p.stem) for p in jitter_frames(record, 0.4, rng)] for _ in range(4000)]
    assert {key for _, key, _ in drawn} == {5}
    for place, shares in ((0, {4: 0.6, 3: 0.2, 5: 0.2}), (2, {6: 0.6, 7: 0.2, 5: 0.2})):
        frames = [clip[place] for clip in drawn]
        for frame, share in shares.items():
            assert frames.count(frame) / len(frames) == pytest.approx(share, abs=0.03)
    both = sum(first != 4 and last != 6 for first, _, last in drawn)
    assert both / len(drawn) == pytest.approx(0.16, abs=0.03)


def test_without_jitter_nothing_is_drawn():
    record = jitter_record((Path("3.jpg"), Path("7.jpg")))
    rng = np.random.default_rng(0)
    assert jitter_frames(record, 0.0, rng) == record.frames
    assert rng.random() == np.random.default_rng(0).random()


def test_jitter_without_further_frames_takes_the_key_frame():
    clip = jitter_frames(jitter_record(()), 1.0, np.random.default_rng(0))
    assert [path.stem for path in clip] == ["5", "5", "5"]


def test_jitter_changes_neighbours_not_the_key_frame(records):
    # The window is drawn after the frames, so geometry must be fixed for images to be comparable.
    still = {"scale": 0.0, "rotation": 0.0, "shift": 0.0}
    plain, jittered = (
        ClipDataset(records, CONFIG, QUIET.model_copy(update=still | {"frame_jitter": share}))
        for share in (0.0, 1.0)
    )
    changed = 0
    for index in range(1, 4):
        clips = [dataset[0, 0, index] for dataset in (plain, jittered)]
        assert torch.equal(clips[0]["images"][1], clips[1]["images"][1])
        assert torch.equal(clips[0]["keypoints"], clips[1]["keypoints"])
        changed += not torch.equal(clips[0]["images"], clips[1]["images"])
    assert changed == 3


def test_blur_is_defocus_or_motion_as_asked(records):
    image = np.zeros((240, 320, 3), np.uint8)
    image[118:122, 158:162] = 255
    box, keypoints = np.array([110.0, 70, 210, 170]), np.full((15, 2), 140.0)
    quiet = {"scale": 0.0, "rotation": 0.0, "shift": 0.0, "blur": 1.0}
    shapes = {}
    for defocus in (0.0, 1.0):
        augment = QUIET.model_copy(update=quiet | {"defocus": defocus})
        elongations = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            crops, _, _ = augment_clip(
                [image] * 3, keypoints, box, CONFIG, augment, rng, still=False
            )
            assert all(np.array_equal(crop, crops[0]) for crop in crops)
            rows, columns = np.nonzero(crops[0][..., 0])
            eigenvalues = np.linalg.eigvalsh(np.cov(rows, columns))
            elongations.append(eigenvalues[1] / eigenvalues[0])
        shapes[defocus] = max(elongations)
    # Defocus keeps a spot round, motion blur makes it a streak.
    assert shapes[1.0] < 1.2
    assert shapes[0.0] > 1.5


def clip_of_one_image(records, seed, **settings):
    """Return an augmented clip of three identical frames, and the same without augmentation."""
    image = read_image(records[0].frames[1])
    still = {"scale": 0.0, "rotation": 0.0, "shift": 0.0}
    return [
        augment_clip(
            [image] * 3, records[0].keypoints, records[0].box, CONFIG,
            QUIET.model_copy(update=still | chosen), np.random.default_rng(seed), still=False,
        )[0]
        for chosen in (settings, {})
    ]  # fmt: skip


def test_exposure_is_one_gamma_for_the_clip(records):
    gammas = []
    for seed in range(12):
        exposed, plain = clip_of_one_image(records, seed, exposure=1.0)
        assert all(np.array_equal(crop, exposed[0]) for crop in exposed)
        share = plain[0] / 255.0
        middle = (share > 0.3) & (share < 0.9)
        gamma = np.median(np.log(exposed[0][middle] / 255) / np.log(share[middle]))
        assert np.abs(255 * share**gamma - exposed[0]).max() < 2
        gammas.append(gamma)
    assert 0.45 < min(gammas) < 0.8
    assert 1.5 < max(gammas) < 3.1


def test_compression_takes_detail_and_moves_nothing(records):
    for seed in range(6):
        small, plain = clip_of_one_image(records, seed, compression=1.0)
        assert all(np.array_equal(crop, small[0]) for crop in small)
        before, after = (cv2.cvtColor(crops[0], cv2.COLOR_RGB2GRAY) for crops in (plain, small))
        detail = [cv2.Laplacian(grey, cv2.CV_64F).var() for grey in (before, after)]
        assert detail[1] < 0.5 * detail[0]
        smooth = cv2.GaussianBlur(before, (0, 0), 2.0)
        found = cv2.matchTemplate(smooth, after[20:-20, 20:-20], cv2.TM_CCOEFF_NORMED)
        assert cv2.minMaxLoc(found)[3] == (20, 20)


def test_blur_of_each_frame_hits_the_key_frame_and_half_of_its_neighbours(records):
    sharp = []
    for seed in range(40):
        blurred, plain = clip_of_one_image(records, seed, blur=1.0, blur_each=1.0)
        sharp.append([np.array_equal(a, b) for a, b in zip(blurred, plain, strict=True)])
    first, key, last = np.mean(sharp, axis=0)
    assert key == 0
    assert 0.25 < first < 0.75
    assert 0.25 < last < 0.75


def test_fast_occluders_uncover_in_neighbours_what_they_hide(records):
    def shared(speed):
        """Return the share of the key frame's occluded area that its neighbours occlude too."""
        shares = []
        for seed in range(30):
            hidden, plain = clip_of_one_image(records, seed, occlusion=1.0, occluder_speed=speed)
            masks = [(a != b).any(-1) for a, b in zip(hidden, plain, strict=True)]
            shares += [(masks[1] & masks[n]).sum() / masks[1].sum() for n in (0, 2)]
        return np.mean(shares)

    assert shared(0.0) > 0.95
    assert shared(0.02) > 0.6
    assert shared(0.15) < 0.35


def test_one_affine_serves_all_frames_and_leads_back(records):
    augment = AugmentConfig(occlusion=0, still_motion=0)
    image = read_image(records[0].frames[1])
    flipped = list(CONFIG.skeleton_graph.flip_permutation)
    num_flipped = 0
    for seed in range(20):
        crops, points, to_image = augment_clip(
            [image] * 3, records[0].keypoints, records[0].box, CONFIG, augment,
            np.random.default_rng(seed), still=False,
        )  # fmt: skip
        assert all(np.array_equal(crop, crops[0]) for crop in crops)
        is_flipped = np.linalg.det(to_image[:, :2]) < 0
        num_flipped += is_flipped
        expected = records[0].keypoints[flipped] if is_flipped else records[0].keypoints
        np.testing.assert_allclose(transform(points, to_image), expected, atol=1e-6)
    assert 0 < num_flipped < 20
