"""The label posterior: hand-computed values, a slow loop as oracle, known noise recovered, and limit cases."""

from __future__ import annotations

import numpy as np
import pytest

from bccp.labels import calibration, posterior
from bccp.labels.calibration import (
    apply_temperature,
    choose_guesses,
    choose_offsets,
    choose_smoothing,
    choose_temperature,
    fit_temperature,
    judge_by_student,
    judge_by_trusted_model,
    most_believed,
)
from bccp.labels.posterior import (
    combine,
    confident_noise_matrix,
    estimate_noise_matrix,
    estimate_user_accuracy,
    expected_f1_cutoff,
    label_posterior,
    remove_noise,
    uniform_noise,
    without_noise,
)

PAIR = 0.7 * np.eye(3) + 0.3 * np.roll(np.eye(3), 1, axis=1)


def draw(n_images: int, noise: np.ndarray, *, seed: int, spread: float = 0.5, classes: list[int] | None = None):
    """Calibrated probabilities, true labels drawn from them, and given labels drawn from the noise matrix."""
    rng = np.random.default_rng(seed)
    n_classes = len(noise)
    probs = np.zeros((n_images, n_classes))
    chosen = classes or list(range(n_classes))
    probs[:, chosen] = rng.dirichlet(np.full(len(chosen), spread), n_images)
    true = (probs.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    given = (noise[true].cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    return probs, true, given


def wrong_probability(belief: np.ndarray, given: np.ndarray) -> np.ndarray:
    return 1 - belief[np.arange(len(given)), given]


def f1(cut: np.ndarray, wrong: np.ndarray) -> float:
    return 2 * (cut & wrong).sum() / (cut.sum() + wrong.sum())


def test_posterior_of_three_images_is_what_a_hand_computes():
    probs = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]]
    noise = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]
    # given 0: 0.5·0.8, 0.3·0.2, 0.2·0.3; given 2: 0.1·0.1, 0.8·0.1, 0.1·0.4; given 1: 1·0.1, 0, 0
    expected = [[40 / 52, 6 / 52, 6 / 52], [1 / 13, 8 / 13, 4 / 13], [1, 0, 0]]
    np.testing.assert_allclose(label_posterior(probs, [0, 2, 1], noise), expected, atol=1e-15)


def test_a_label_that_no_class_explains_says_nothing():
    np.testing.assert_array_equal(label_posterior([[0.25, 0.75], [0.5, 0.5]], [1, 1], [[1, 0], [1, 0]]), [[0.25, 0.75], [0.5, 0.5]])


def test_a_round_of_em_is_what_the_slow_loops_give():
    probs, _, given = draw(40, PAIR, seed=1)
    smoothing, n_classes = 2.0, 3
    start = uniform_noise(estimate_user_accuracy(probs, given), n_classes)

    def round_of_em(noise):
        counts, likelihood, belief = smoothing * start, 0.0, np.zeros((40, n_classes))
        for i in range(40):
            evidence = sum(probs[i, j] * noise[j, given[i]] for j in range(n_classes))
            likelihood += np.log(evidence)
            for j in range(n_classes):
                belief[i, j] = probs[i, j] * noise[j, given[i]] / evidence
                counts[j, given[i]] += belief[i, j]
        for j in range(n_classes):
            for k in range(n_classes):
                likelihood += smoothing * start[j, k] * np.log(noise[j, k])
        return counts, belief, likelihood

    counts, _, _ = round_of_em(start)
    second = counts / counts.sum(axis=1, keepdims=True)
    counts, belief, likelihood = round_of_em(second)
    left_out = sum(
        np.log(sum(probs[i, j] * (counts[j, given[i]] - belief[i, j]) / (counts[j].sum() - belief[i, j]) for j in range(n_classes)))
        for i in range(40)
    )
    fit = estimate_noise_matrix(probs, given, smoothing=smoothing, tolerance=0, max_iter=2)
    np.testing.assert_allclose(fit.noise_matrix, second, rtol=1e-12)
    np.testing.assert_allclose(fit.posterior, belief, rtol=1e-10, atol=1e-15)
    assert fit.log_likelihood == pytest.approx(likelihood, rel=1e-12)
    assert fit.left_out_likelihood == pytest.approx(left_out, rel=1e-12)
    assert fit.iterations == 2


def test_the_likelihood_never_falls():
    probs, _, given = draw(300, PAIR, seed=2)
    reached = [estimate_noise_matrix(probs, given, smoothing=3, tolerance=-1, max_iter=n).log_likelihood for n in range(1, 40)]
    assert np.diff(reached).min() > -1e-9
    assert reached[-1] > reached[0] + 1


@pytest.mark.parametrize("noise", [PAIR, np.array([[0.9, 0.1, 0.0], [0.0, 0.4, 0.6], [0.3, 0.3, 0.4]])], ids=["pair", "uneven"])
def test_em_recovers_a_known_matrix_within_its_sampling_error(noise):
    rng = np.random.default_rng(3)
    probs, _, _ = draw(9000, noise, seed=3)
    probs[:3000] = np.eye(3)[rng.integers(0, 3, 3000)]  # a third is certain
    true = (probs.cumsum(axis=1) < rng.random(9000)[:, None]).sum(axis=1).clip(max=2)
    given = (noise[true].cumsum(axis=1) < rng.random(9000)[:, None]).sum(axis=1).clip(max=2)
    fit = estimate_noise_matrix(probs, given, smoothing=1e-3)
    # the certain images alone would leave this standard error, and the others can only lower it
    n_certain = probs[:3000].sum(axis=0)[:, None]
    assert (np.abs(fit.noise_matrix - noise) < 5 * np.sqrt(noise * (1 - noise) / n_certain) + 1 / n_certain).all()
    np.testing.assert_allclose(fit.noise_matrix.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(fit.posterior.sum(axis=1), 1, rtol=1e-12)


def test_the_posterior_is_calibrated_and_its_mean_is_the_user_accuracy():
    probs, true, given = draw(20000, PAIR, seed=4)
    p_wrong = wrong_probability(estimate_noise_matrix(probs, given).posterior, given)
    wrong = given != true
    # binomial standard errors: of the whole, and of each tenth
    assert abs(p_wrong.mean() - wrong.mean()) < 5 * np.sqrt(0.25 / 20000)
    for low in np.arange(0, 1, 0.1):
        inside = (p_wrong >= low) & (p_wrong < low + 0.1)
        assert inside.sum() > 100
        assert abs(p_wrong[inside].mean() - wrong[inside].mean()) < 5 * np.sqrt(0.25 / inside.sum())


def test_permuting_the_images_permutes_the_posterior_to_the_bit():
    probs, _, given = draw(500, PAIR, seed=5)
    order = np.random.default_rng(0).permutation(500)
    one, other = judge_by_trusted_model(probs, given, start=1.3), judge_by_trusted_model(probs[order], given[order], start=1.3)
    assert (one.temperature, one.smoothing) == (other.temperature, other.smoothing)
    np.testing.assert_array_equal(one.fit.noise_matrix, other.fit.noise_matrix)
    np.testing.assert_array_equal(one.fit.posterior[order], other.fit.posterior)
    assert one.fit.log_likelihood == other.fit.log_likelihood


def test_without_noise_next_to_nothing_is_cut_off():
    probs, true, _ = draw(2000, np.eye(5), seed=6, spread=0.02)
    fit = estimate_noise_matrix(probs, true)
    p_wrong = wrong_probability(fit.posterior, true)
    # these probabilities are calibrated, so that a label is as wrong as they say: 1% of the images at most
    assert (p_wrong > expected_f1_cutoff(p_wrong)).mean() < 0.01
    assert p_wrong.mean() < 0.01


def test_labels_that_are_all_wrong_are_all_found():
    noise = uniform_noise(0.0, 4)
    probs, true, given = draw(1000, noise, seed=7, spread=0.02)
    assert (given != true).all()
    p_wrong = wrong_probability(estimate_noise_matrix(probs, given).posterior, given)
    # no label can be told from an image that p itself has wrong; those are about 1 in 50 here
    assert (p_wrong > expected_f1_cutoff(p_wrong)).mean() > 0.95
    assert p_wrong.mean() > 0.95


def test_a_class_that_is_missing_gets_the_common_noise():
    noise = uniform_noise(0.7, 4)
    probs, _, given = draw(3000, noise, seed=8, spread=0.05, classes=[0, 1, 3])
    fit = estimate_noise_matrix(probs, given, smoothing=10)
    accuracy = estimate_user_accuracy(probs, given)
    np.testing.assert_allclose(fit.noise_matrix[2], uniform_noise(accuracy, 4)[2], rtol=1e-9)
    assert accuracy == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / 3000) + 0.01)
    np.testing.assert_array_equal(fit.posterior[:, 2], 0)


def test_a_label_that_nobody_gives_is_no_obstacle():
    probs, _, given = draw(300, uniform_noise(0.8, 3), seed=9)
    given[given == 1] = 2
    fit = estimate_noise_matrix(probs, given)
    assert fit.noise_matrix[:, 1].max() < 0.1
    assert np.isfinite(fit.posterior).all()


def test_two_classes_with_unequal_noise():
    noise = np.array([[0.6, 0.4], [0.1, 0.9]])
    probs, true, given = draw(4000, noise, seed=10, spread=0.1)
    fit = estimate_noise_matrix(probs, given)
    # about 7 of 10 images are near certain
    assert np.abs(fit.noise_matrix - noise).max() < 5 * np.sqrt(0.25 / (0.7 * 2000))
    assert (fit.posterior.argmax(axis=1) == true).mean() > (given == true).mean() + 0.1


def test_a_class_of_three_images_stays_near_the_common_noise():
    noise = uniform_noise(0.7, 3)
    probs, _, given = draw(600, noise, seed=11, spread=0.05, classes=[0, 1])
    rare = np.eye(3)[[2, 2, 2]]
    fit = estimate_noise_matrix(np.vstack([probs, rare]), np.append(given, [0, 0, 0]), smoothing=10)
    # ten pseudo-labels of the common noise against three that say 0
    accuracy = estimate_user_accuracy(np.vstack([probs, rare]), np.append(given, [0, 0, 0]))
    np.testing.assert_allclose(fit.noise_matrix[2, 2], 10 * accuracy / 13, rtol=1e-9)


@pytest.mark.parametrize(
    ("probs", "given", "smoothing", "message"),
    [
        (np.ones((3, 1)), [0, 0, 0], 1, "K at least 2"),
        (np.ones((3, 2)) / 2, [0, 0], 1, "given"),
        (np.ones((2, 2)) / 2, [0, 2], 1, "0 to 1 are accepted"),
        (np.ones((2, 2)) / 2, [0, -1], 1, "0 to 1 are accepted"),
        (np.ones((2, 2)) / 2, [0, 1], 0, "smoothing=0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(probs, given, smoothing, message):
    with pytest.raises(ValueError, match=message):
        estimate_noise_matrix(probs, given, smoothing=smoothing)


def test_user_accuracy_is_the_root_of_the_slope():
    # certain of 3 right and 1 wrong label: (3 + 1/2) / (4 + 1)
    probs = np.eye(3)[[0, 1, 2, 0]]
    assert estimate_user_accuracy(probs, [0, 1, 2, 1]) == pytest.approx(0.7, abs=1e-9)
    assert estimate_user_accuracy(np.zeros((0, 3)), np.zeros(0, int)) == pytest.approx(0.5)


def test_temperature_sharpens_odds_by_its_inverse_power():
    sharp = apply_temperature(np.log([[0.2, 0.8], [0.5, 0.5]]), 0.5)
    np.testing.assert_allclose(sharp, [[1 / 17, 16 / 17], [0.5, 0.5]])
    np.testing.assert_array_equal(apply_temperature([[0.0, -np.inf]], 3.0), [[1.0, 0.0]])
    np.testing.assert_allclose(apply_temperature([[1000.0, 1000.0]], 1.0), [[0.5, 0.5]])


@pytest.mark.parametrize("distortion", [0.4, 1.0, 2.5])
def test_validation_finds_the_temperature_that_undoes_a_distortion(distortion):
    probs, true, _ = draw(5000, np.eye(4), seed=12)
    found = fit_temperature(apply_temperature(np.log(probs + 1e-12), 1 / distortion), true)
    assert found == pytest.approx(distortion, rel=0.1)


def test_temperature_stays_within_its_bounds():
    certain = np.array([[0.9, 0.1]] * 5)
    least, greatest = calibration.TEMPERATURES
    assert fit_temperature(certain, [0] * 5) == pytest.approx(least)
    assert fit_temperature(certain, [1] * 5) == pytest.approx(greatest)
    assert fit_temperature(np.zeros((0, 2)), []) == 1.0
    assert fit_temperature([[1.0, 0.0]], [1]) == pytest.approx(greatest)  # a zero is not impossible


@pytest.mark.parametrize("start", [0.5, 2.0])
def test_given_labels_alone_find_the_temperature(start):
    probs, _, given = draw(4000, uniform_noise(0.7, 5), seed=13, spread=0.2)
    too_sharp = apply_temperature(np.log(probs + 1e-9), 0.5)
    assert choose_temperature(too_sharp, given, start=start, smoothing=30) == pytest.approx(2.0, rel=0.2)


def test_rows_share_their_noise_only_where_the_labels_say_so():
    probs, _, given = draw(600, uniform_noise(0.7, 6), seed=14, spread=0.05)
    _, _, uneven = draw(600, 0.7 * np.eye(6) + 0.3 * np.roll(np.eye(6), 1, axis=1), seed=14, spread=0.05)
    assert choose_smoothing(probs, given) >= 100
    assert choose_smoothing(probs, uneven) <= 10


def test_left_out_likelihood_does_not_reward_learning_by_heart():
    # p says nothing, so that only the matrix can explain the labels, and there is nothing to explain
    rng = np.random.default_rng(15)
    given, guess = rng.integers(0, 8, 200), np.full((200, 8), 0.02)
    guess[np.arange(200), rng.integers(0, 8, 200)] += 0.84
    free = estimate_noise_matrix(guess, given, smoothing=0.1)
    shared = estimate_noise_matrix(guess, given, smoothing=1000)
    chance = 200 * np.log(1 / 8)
    assert free.left_out_likelihood < shared.left_out_likelihood < chance + 5


def test_a_trusted_model_that_is_too_sure_is_mended():
    noise = uniform_noise(0.7, 10)
    probs, true, given = draw(700, noise, seed=16, spread=0.06)
    too_sure = apply_temperature(np.log(probs + 1e-9), 0.4)
    wrong = given != true
    judgement = judge_by_trusted_model(too_sure, given, start=1.0)
    assert judgement.temperature == pytest.approx(2.5, rel=0.35)
    p_wrong = wrong_probability(judgement.fit.posterior, given)
    as_it_is = wrong_probability(estimate_noise_matrix(too_sure, given).posterior, given)
    best = wrong_probability(label_posterior(probs, given, noise), given)
    assert f1(p_wrong > 0.5, wrong) > f1(best > 0.5, wrong) - 0.03
    assert abs(p_wrong.mean() - wrong.mean()) < min(0.04, abs(as_it_is.mean() - wrong.mean()))


def test_sure_images_are_counted_as_a_hand_counts_them():
    probs = np.array([[0.8, 0.2, 0], [0.6, 0.2, 0.2], [0.4, 0.6, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    given = [0, 0, 1, 1, 1]
    # the usual p of class 0 is 0.7, of class 1 (0.6 + 0.1 + 0.9)/3 = 0.533: the second image is sure of nothing, and class 2 is nobody's
    counts = np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    pseudo = 2 * uniform_noise(3.5 / 5, 3)
    expected = (counts + pseudo) / (counts + pseudo).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(confident_noise_matrix(probs, given, smoothing=2), expected)


def test_noise_is_removed_from_what_it_was_mixed_into():
    pure = np.array([[0.9, 0.06, 0.04], [0.2, 0.7, 0.1]])
    np.testing.assert_allclose(remove_noise(pure @ PAIR, PAIR), pure, atol=1e-12)
    singular = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(remove_noise([[0.4, 0.4, 0.2]], singular), [[0.4, 0.4, 0.2]], atol=1e-12)
    nearly_singular = [[0.51, 0.49], [0.49, 0.51]]
    np.testing.assert_allclose(remove_noise([[0.6, 0.4]], nearly_singular), [[0.5, 0.5]], atol=1e-12)
    floor = remove_noise([[1.0, 0.0, 0.0]], PAIR)
    assert floor.min() > 0
    assert floor.sum() == pytest.approx(1)


@pytest.mark.parametrize("noise", [uniform_noise(0.7, 6), 0.7 * np.eye(6) + 0.3 * np.roll(np.eye(6), 1, axis=1)], ids=["uniform", "pair"])
def test_held_out_models_of_noisy_labels_still_find_them(noise):
    probs, true, given = draw(1500, noise, seed=17, spread=0.03)
    fitted_to_noise = probs @ noise  # what a perfect model of the given labels says
    wrong = given != true
    judgement = judge_by_trusted_model(without_noise(fitted_to_noise, given), given, start=1.0)
    p_wrong = wrong_probability(judgement.fit.posterior, given)
    best = wrong_probability(label_posterior(probs, given, noise), given)
    assert f1(p_wrong > expected_f1_cutoff(p_wrong), wrong) > f1(best > 0.5, wrong) - 0.03
    assert abs(p_wrong.mean() - wrong.mean()) < 0.04
    # taken at its word, the same model explains the labels without any noise
    naive = wrong_probability(estimate_noise_matrix(fitted_to_noise, given).posterior, given)
    assert naive.mean() < wrong.mean() - 0.1


def test_best_expected_f1_is_what_trying_every_cut_gives():
    rng = np.random.default_rng(18)
    for n_images in (1, 2, 7, 30):
        for _ in range(50):
            p = np.round(rng.beta(0.4, 0.8, n_images), 1)  # with ties
            cut = p > expected_f1_cutoff(p)
            tried = [2 * p[p > c].sum() / ((p > c).sum() + p.sum()) for c in [-1.0, *p] if p.sum()]
            best = max(tried, default=0.0)
            reached = 2 * p[cut].sum() / (cut.sum() + p.sum()) if p.sum() else 0.0
            assert reached == pytest.approx(best, abs=1e-12)


def test_expected_f1_of_nothing_wrong_cuts_nothing():
    assert expected_f1_cutoff([0.0, 0.0]) == 0.0
    assert expected_f1_cutoff([]) == 0.0
    assert expected_f1_cutoff([1.0, 1.0]) == 0.5
    assert expected_f1_cutoff([0.3, 0.3, 0.3]) < 0.3  # equal ones are never parted: all or none


def test_inputs_are_left_as_they_were():
    probs, _, given = draw(50, PAIR, seed=19)
    before = probs.copy(), given.copy()
    judge_by_trusted_model(probs, given, start=1.0)
    judge_by_trusted_model(without_noise(probs, given), given, start=1.0)
    np.testing.assert_array_equal(probs, before[0])
    np.testing.assert_array_equal(given, before[1])


def test_users_who_err_as_the_classifier_does_do_not_make_it_soft():
    rng = np.random.default_rng(5)
    n_images, n_classes = 2000, 4
    true = rng.integers(0, n_classes, n_images)
    weak = np.exp(rng.normal(0, 1, (n_images, n_classes)) + 0.5 * np.eye(n_classes)[true])
    weak /= weak.sum(axis=1, keepdims=True)
    # what the users take for the truth in a third of the cases is what the classifier holds for second likeliest
    given = np.where(rng.random(n_images) < 0.35, [rng.choice(n_classes, p=row) for row in weak], true)
    probs = apply_temperature(np.log(weak) + 3 * np.eye(n_classes)[true], 1.0)
    free, kept = (judge_by_trusted_model(probs, given, start=0.5, most=most) for most in (None, most_believed(0.5)))
    wrong = given != true
    share = [1 - np.take_along_axis(j.fit.posterior, given[:, None], axis=1).mean() for j in (free, kept)]
    assert kept.temperature <= most_believed(0.5) < free.temperature
    assert abs(share[1] - wrong.mean()) < abs(share[0] - wrong.mean())


def test_the_greatest_believed_temperature_follows_the_validation():
    assert most_believed(0.1) == most_believed(0.7) == 0.65
    assert most_believed(2.0) == pytest.approx(1.8)


def guess(probs: np.ndarray, given: np.ndarray, share: float, softness: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels with some replaced by what weak eyes say of the image, and each label's chance as a guess."""
    rng = np.random.default_rng(seed)
    soft = apply_temperature(np.log(np.maximum(probs, 1e-300)), softness)
    said = (soft.cumsum(axis=1) < rng.random(len(given))[:, None]).sum(axis=1).clip(max=probs.shape[1] - 1)
    labels = np.where(rng.random(len(given)) < share, said, given)
    return labels, soft[np.arange(len(given)), labels]


def test_guesses_are_told_from_errors_of_the_class():
    probs, true, labels = draw(20_000, uniform_noise(0.9, 6), seed=3, spread=0.2)
    given, chances = guess(probs, labels, 0.4, 3.0, seed=4)
    fit, blind = estimate_noise_matrix(probs, given, guesses=chances), estimate_noise_matrix(probs, given)
    assert fit.guess_share == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose(fit.noise_matrix, uniform_noise(0.9, 6), atol=0.03)
    np.testing.assert_allclose(fit.posterior, combine(probs, fit.likelihood))
    expected = 0.6 * uniform_noise(0.9, 6).T[given] + 0.4 * chances[:, None]
    np.testing.assert_allclose(fit.likelihood, expected, atol=0.04)
    wrong = given != true
    with_guesses, without = (f1(wrong_probability(found.posterior, given) > 0.5, wrong) for found in (fit, blind))
    assert with_guesses > without + 0.02
    assert wrong_probability(fit.posterior, given).mean() == pytest.approx(wrong.mean(), abs=0.01)


@pytest.mark.parametrize("softness", [2.0, 4.0])
def test_how_weak_the_eyes_are_is_found_too(softness: float):
    probs, _, labels = draw(20_000, uniform_noise(0.9, 6), seed=5, spread=0.2)
    given, _ = guess(probs, labels, 0.4, softness, seed=6)
    assert choose_guesses(probs, given, temperature=1.0, smoothing=10) == softness


def test_labels_that_do_not_depend_on_the_image_are_no_guesses():
    for seed, noise in enumerate((PAIR, uniform_noise(0.6, 3), np.eye(3))):
        probs, true, given = draw(3000, noise, seed=seed, spread=0.2)
        judgement = judge_by_trusted_model(probs, given, start=1.0, most=1.0)
        assert judgement.fit.guess_share < 0.05
        assert wrong_probability(judgement.fit.posterior, given).mean() == pytest.approx((given != true).mean(), abs=0.03)
    assert judge_by_trusted_model(probs, given, start=1.0).softness is None


def test_each_round_of_em_with_guesses_climbs():
    probs, _, labels = draw(300, PAIR, seed=8)
    given, chances = guess(probs, labels, 0.3, 2.0, seed=9)
    fits = [estimate_noise_matrix(probs, given, smoothing=3, guesses=chances, tolerance=-1, max_iter=n) for n in range(1, 40)]
    assert (np.diff([fit.log_likelihood for fit in fits]) >= -1e-9).all()
    order = np.random.default_rng(0).permutation(300)
    other = estimate_noise_matrix(probs[order], given[order], smoothing=3, guesses=chances[order], tolerance=-1, max_iter=39)
    assert other.guess_share == fits[-1].guess_share
    np.testing.assert_array_equal(other.posterior, fits[-1].posterior[order])
    np.testing.assert_array_equal(other.likelihood, fits[-1].likelihood[order])


def test_leaps_end_where_plain_rounds_do_and_sooner(monkeypatch: pytest.MonkeyPatch):
    probs, _, labels = draw(2000, PAIR, seed=8)
    given, chances = guess(probs, labels, 0.3, 2.0, seed=9)
    fit = estimate_noise_matrix(probs, given, guesses=chances)
    monkeypatch.setattr(posterior, "leap_ahead", lambda *_: None)
    plain, limit = (estimate_noise_matrix(probs, given, guesses=chances, tolerance=least, max_iter=10_000) for least in (1e-8, 1e-14))
    assert fit.iterations < plain.iterations / 2
    assert plain.log_likelihood <= fit.log_likelihood <= limit.log_likelihood + 1e-9
    np.testing.assert_allclose(fit.noise_matrix, limit.noise_matrix, atol=0.01)
    assert fit.guess_share == pytest.approx(limit.guess_share, abs=0.01)


FAVOURS = np.log([0.25, 1.0, 4.0])
FAVOURS -= FAVOURS.mean()


def test_a_classifier_that_favours_some_classes_is_put_right():
    probs, true, given = draw(6000, uniform_noise(0.7, 3), seed=10, spread=0.3)
    favouring = apply_temperature(np.log(probs) - FAVOURS, 1.0)
    judgement = judge_by_trusted_model(favouring, given, start=1.0, most=1.0)
    np.testing.assert_allclose(judgement.offsets, FAVOURS, atol=0.15)
    np.testing.assert_allclose(judgement.probs, probs, atol=0.05)
    wrong = given != true
    assert wrong_probability(judgement.fit.posterior, given).mean() == pytest.approx(wrong.mean(), abs=0.01)
    blind = estimate_noise_matrix(favouring, given)
    found, without = (f1(wrong_probability(fit.posterior, given) > 0.5, wrong) for fit in (judgement.fit, blind))
    assert found > without + 0.02


def test_offsets_are_where_slope_and_prior_are_level():
    probs, _, given = draw(600, uniform_noise(0.7, 3), seed=11, spread=0.3)
    favouring, likelihood = apply_temperature(np.log(probs) - FAVOURS, 1.0), uniform_noise(0.7, 3).T[given]

    def judge(shifted):
        return combine(shifted, likelihood), float(np.log((shifted * likelihood).sum(axis=1)).sum())

    offsets, shifted = choose_offsets(favouring, judge)
    slope = (judge(shifted)[0] - shifted).sum(axis=0)
    np.testing.assert_allclose(slope, calibration.OFFSET_PRIOR * offsets, atol=0.5)
    np.testing.assert_allclose(shifted, apply_temperature(np.log(favouring) + offsets, 1.0))
    assert judge(shifted)[1] - judge(favouring)[1] > 2
    temperature, student_offsets, student = judge_by_student(favouring, likelihood, most=1.0)
    assert student_offsets @ FAVOURS > 0.8 * FAVOURS @ FAVOURS
    np.testing.assert_allclose(student, apply_temperature(np.log(favouring) / temperature + student_offsets, 1.0))


def test_classes_that_nothing_speaks_against_get_no_offset():
    for seed in range(5):
        probs, _, given = draw(2000, PAIR, seed=seed, spread=0.3)
        judgement = judge_by_trusted_model(probs, given, start=1.0, most=1.0)
        np.testing.assert_array_equal(judgement.offsets, 0)
        np.testing.assert_array_equal(judgement.probs, apply_temperature(np.log(probs), judgement.temperature))


def test_a_student_is_judged_with_what_is_known_of_the_users():
    noise = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.1, 0.0, 0.9]])
    rng = np.random.default_rng(2)
    calibrated = rng.dirichlet(np.full(3, 0.5), 4000)
    true = np.array([rng.choice(3, p=row) for row in calibrated])
    given = np.array([rng.choice(3, p=noise[z]) for z in true])
    too_sharp = apply_temperature(np.log(calibrated), 0.5)
    temperature, offsets, probs = judge_by_student(too_sharp, noise.T[given])
    np.testing.assert_array_equal(offsets, 0)
    assert temperature == pytest.approx(2.0, rel=0.25)
    np.testing.assert_allclose(combine(probs, noise.T[given]), label_posterior(probs, given, noise))
    order = rng.permutation(4000)
    other, _, permuted = judge_by_student(too_sharp[order], noise.T[given][order])
    assert other == temperature
    np.testing.assert_array_equal(permuted, probs[order])
    assert judge_by_student(too_sharp, noise.T[given], most=0.65)[0] <= 0.65


MANY = {"FEW_CLASSES": 2}
"""Nine classes count as many."""


@pytest.mark.parametrize(
    "limits",
    [MANY, MANY | {"SERIAL": 5}, MANY | {"BLOCK_BYTES": 200}, MANY | {"MANY_CELLS": 1}, {"BLOCK_BYTES": 200}, {"MANY_CELLS": 1}],
    ids=lambda limits: ",".join(limits),
)
def test_many_classes_and_small_blocks_change_roundings_alone(monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    rng = np.random.default_rng(11)
    probs, given = rng.dirichlet(np.full(9, 0.2), 400), rng.integers(0, 7, 400)  # two classes have no label
    guesses = rng.dirichlet(np.full(9, 1.0), 400)[:, 0]
    for chances in (guesses, None):
        with monkeypatch.context() as patch:
            expected = posterior.estimate_noise_matrix(probs, given, guesses=chances)
            for name, value in limits.items():
                patch.setattr(posterior, name, value)
            found = posterior.estimate_noise_matrix(probs, given, guesses=chances)
        assert found.iterations == expected.iterations > 5
        for field in ("noise_matrix", "posterior", "likelihood", "log_likelihood", "left_out_likelihood", "guess_share"):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-12, err_msg=field)


def test_with_many_classes_neither_order_nor_threads_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (MANY | {"BLOCK_BYTES": 400, "MANY_CELLS": 1}).items():
        monkeypatch.setattr(posterior, name, value)
    probs, _, given = draw(500, uniform_noise(0.7, 9), seed=5)
    order = np.random.default_rng(0).permutation(500)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = judge_by_trusted_model(probs, given, start=1.0, most=1.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    other = judge_by_trusted_model(probs[order], given[order], start=1.0, most=1.0)
    assert (one.temperature, one.smoothing, one.fit.log_likelihood) == (other.temperature, other.smoothing, other.fit.log_likelihood)
    np.testing.assert_array_equal(one.fit.noise_matrix, other.fit.noise_matrix)
    np.testing.assert_array_equal(one.fit.posterior[order], other.fit.posterior)


def test_no_matrix_is_fitted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, fit_noise = [], calibration.fit_noise

    def noted(probs, given, *, smoothing, guesses=None, **options):
        fits.append((probs.tobytes(), smoothing, None if guesses is None else guesses.tobytes()))
        return fit_noise(probs, given, smoothing=smoothing, guesses=guesses, **options)

    monkeypatch.setattr(calibration, "fit_noise", noted)
    probs, _, given = draw(200, PAIR, seed=8)
    judge_by_trusted_model(probs, given, start=1.0)
    assert len(set(fits)) > 10
    assert len(fits) - len(set(fits)) <= 1  # the one without offsets, from which these are sought
