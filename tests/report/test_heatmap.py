"""A benchmark's tasks as pictures: on the caller's own axes, and in the report's figure."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist, squareform

import jaxdiv
from jaxdiv.errors import InputError
from jaxdiv.report import heatmap
from jaxdiv.task2vec.coefficient import jackknife


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def some_distances(tasks=6):
    return squareform(pdist(np.random.default_rng(0).uniform(size=(tasks, 3)))) / 3


def test_a_heat_map_on_ones_own_axes_shows_every_distance_and_the_range_of_its_kind(axes):
    distances = some_distances()
    image = jaxdiv.heat_map(axes, distances, distance="correlation")
    np.testing.assert_array_equal(np.sort(image.get_array(), axis=None), np.sort(distances, axis=None))
    assert image.get_clim() == (0, 2)
    labels = [ax.get_ylabel() for ax in axes.figure.axes]
    assert labels == ["task (clustered order)", "correlation distance of variances, 0–2"]
    assert jaxdiv.heat_map(axes, distances, limit=0.5).get_clim() == (0, 0.5)


def test_a_distance_without_an_end_takes_its_colours_from_the_data(axes):
    image = jaxdiv.heat_map(axes, 9 * some_distances(), distance="kl", colorbar=False)
    assert image.get_clim() == (0, 9 * some_distances().max()) and len(axes.figure.axes) == 1


def test_a_task_map_on_ones_own_axes_puts_tasks_where_classical_mds_does(axes):
    distances = some_distances()
    points = jaxdiv.task_map(axes, distances)
    np.testing.assert_allclose(points.get_offsets(), heatmap.classical_mds(distances)[0])
    np.testing.assert_allclose(points.get_array(), distances.sum(1) / 5)
    assert len(axes.figure.axes) == 2 and axes.get_xlabel() == "first axis (scale-free Task2Vec distance)"
    axes.figure.canvas.draw()


@pytest.mark.parametrize("draw", [jaxdiv.heat_map, jaxdiv.task_map])
@pytest.mark.parametrize("given", [np.zeros((1, 1)), np.zeros((2, 3)), np.zeros(4)])
def test_what_is_no_square_of_distances_is_refused(axes, draw, given):
    with pytest.raises(InputError, match="`distances` has shape"):
        draw(axes, given)
    with pytest.raises(InputError, match="unknown distance 'cosin': did you mean 'cosine'"):
        draw(axes, np.zeros((3, 3)), distance="cosin")


def test_the_map_keeps_distances_of_points_in_a_plane():
    points = np.random.default_rng(1).normal(size=(9, 2))
    distances = squareform(pdist(points))
    found, share = heatmap.classical_mds(distances)
    np.testing.assert_allclose(squareform(pdist(found)), distances, atol=1e-9)
    assert share == pytest.approx(1)
    # Equal distances fill as many directions as there are tasks less one: two of them hold their share.
    assert heatmap.classical_mds(1 - np.eye(9))[1] == pytest.approx(2 / 8)


def test_like_tasks_stand_side_by_side():
    kinds = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    distances = np.where(kinds[:, None] == kinds, 0.1, 0.8) * (1 - np.eye(9))
    order = kinds[heatmap.cluster_order(distances)]
    assert (np.diff(order) != 0).sum() == 2


def test_a_benchmark_of_equal_tasks_is_drawn():
    drawn = heatmap.draw_tasks("equal", np.zeros((4, 4)), jackknife(np.zeros((4, 4))))
    assert drawn.png.startswith(b"\x89PNG") and len(drawn.panels[0]) == 3
