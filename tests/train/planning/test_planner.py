"""Plans of small recipes: counts, rows, verdict, and the report of them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from small_steps import BASE, NewRecipe

from configs.errors import UserError
from train.planning.cluster import GIB, Cluster
from train.planning.plan_report import plan_numbers, print_plan
from train.planning.planner import Plan, make_plan
from train.planning.zero_memory import network_bytes

TWO = Cluster(nodes=1, gpus_per_node=2)


@pytest.fixture(scope="module")
def video_plan(new_recipe: NewRecipe) -> Plan:
    return make_plan(new_recipe("video", batch_size=4, loop={"ema_decay": 0.9}), TWO)


def test_modules_and_tokens(video_plan: Plan) -> None:
    counts = {count.name: (count.trained, count.frozen) for count in video_plan.modules}
    assert set(counts) == {
        "branches.control", "branches.fusion", "branches.lora", "autoencoder", "base",
    }  # fmt: skip
    width, rank = BASE.token_width, 8
    assert counts["branches.lora"] == (BASE.layers * 4 * 2 * width * rank, 0)
    assert counts["base"][0] == counts["autoencoder"][0] == 0
    assert video_plan.trained == sum(trained for trained, _ in counts.values())
    assert video_plan.tokens == {"visual": 5 * 4 * 6, "text": 4}
    assert video_plan.losses == ("loss", "first", "rest")


def test_figures_follow_from_each_other(video_plan: Plan) -> None:
    assert set(video_plan.flops) == {"forward", "backward", "recompute"}
    assert video_plan.flops["recompute"] == 0
    total = sum(video_plan.flops.values())
    assert video_plan.seconds == pytest.approx(total / (2 * 989.4e12 * 0.4))
    # Weights, two averages of AdamW, and the average of the weights.
    assert video_plan.checkpoint_bytes == 4 * 4 * video_plan.trained
    assert video_plan.network == network_bytes(video_plan.trained, 1, 2)
    assert video_plan.fits and not video_plan.changes
    assert [(row.stage, row.checkpointing) for row in video_plan.rows] == [
        (stage, switch) for stage in range(4) for switch in (False, True)
    ]
    assert all((row.offloaded is None) == (row.stage == 0) for row in video_plan.rows)
    as_it_is = next(r for r in video_plan.rows if (r.stage, r.checkpointing) == (1, False))
    assert as_it_is.memory == video_plan.memory


def test_checkpointing_costs_a_forward_pass(new_recipe: NewRecipe) -> None:
    plan = make_plan(new_recipe("reconstruction", batch_size=2, model=checkpointed()), Cluster())
    assert 0 < plan.flops["recompute"] < plan.flops["forward"]
    assert [row.stage for row in plan.rows] == [0, 0]
    assert plan.setup.plain and plan.memory.buffers == 0
    assert plan.rendered == 2 * (17 * 16 * 24) * 8


def checkpointed() -> dict[str, Any]:
    return {
        "latent_channels": 8, "width": 64, "depth": 2, "heads": 2, "gradient_checkpointing": True,
    }  # fmt: skip


def test_what_does_not_fit_is_told_how_it_would(new_recipe: NewRecipe) -> None:
    """What is proposed for it is itself planned, and fits."""
    cluster = Cluster(gpu_memory=0.03 * GIB, reserve=0.0)
    plan = make_plan(new_recipe("reconstruction", batch_size=8), cluster)
    assert not plan.fits
    words = [" ".join(change.words) for change in plan.changes]
    by_parts = next(w for w in words if "loop.accumulate" in w)
    parts = int(by_parts.partition("accumulate=")[2].split()[0])
    expected = next(c.memory.total for c in plan.changes if " ".join(c.words) == by_parts)
    again = new_recipe("reconstruction", batch_size=8 // parts, loop={"accumulate": parts})
    found = make_plan(again, cluster)
    assert found.fits
    # The chord between the rehearsals of one clip and of all is no lower than what lies between.
    assert 0.8 * expected <= found.memory.total <= expected


def test_a_batch_that_does_not_divide_is_refused(new_recipe: NewRecipe) -> None:
    with pytest.raises(UserError, match=r"does not divide among 3 GPUs; plan for [24] of them"):
        make_plan(new_recipe("video", batch_size=4), Cluster(nodes=3))


def test_an_offloaded_optimizer_is_in_host_memory(new_recipe: NewRecipe, video_plan: Plan) -> None:
    recipe = new_recipe("video", batch_size=4, loop={"ema_decay": 0.9})
    engine = recipe.engine.model_copy(update={"offload": "optimizer"})
    plan = make_plan(recipe.model_copy(update={"engine": engine}), TWO)
    row = next(r for r in video_plan.rows if (r.stage, r.checkpointing) == (1, False))
    assert plan.memory == row.offloaded and plan.memory.states == 0 < plan.memory.host
    assert "but for engine.offload=optimizer" in printed(plan)


def test_the_plain_engine_is_for_one_gpu(new_recipe: NewRecipe) -> None:
    recipe = new_recipe("video", batch_size=4)
    engine = recipe.engine.model_copy(update={"kind": "plain"})
    with pytest.raises(UserError, match=r"engine\.kind=plain is for one process"):
        make_plan(recipe.model_copy(update={"engine": engine}), TWO)


def test_rates_of_drawing_are_counted_where_they_are_known(video_plan: Plan) -> None:
    known = replace(video_plan, cluster=replace(TWO, splat_rate=1e6), rendered=10**6)
    assert "is counted at 1e+06 a second" in printed(known)
    assert "at least" not in printed(known)
    unknown = printed(replace(known, cluster=TWO))
    assert "(Gaussians times views) is not counted" in unknown
    assert unknown.count("at least") == 2, "of a step, and of all"


def printed(plan: Plan) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        print_plan(plan)
    return output.getvalue()


def test_the_report_says_it_all(video_plan: Plan) -> None:
    text = printed(video_plan)
    assert "video on 1 node of 2 GPUs with 80.0 GiB: 2 clips each" in text
    assert f"{video_plan.trained:,}" in text and f"{video_plan.frozen:,}" in text
    assert "496 a step; 120 visual + 4 text a clip" in text
    assert "1 *" in text and "fits: " in text
    assert max(len(line) for line in text.splitlines() if "off" in line) <= 120


def test_numbers_are_for_machines(video_plan: Plan) -> None:
    numbers = json.loads(json.dumps(plan_numbers(video_plan)))
    assert numbers["fits"] is True
    assert numbers["parameters"]["trained"] == video_plan.trained
    assert numbers["memory"]["total"] == sum(
        value for name, value in numbers["memory"].items() if name not in ("total", "host")
    )
    assert len(numbers["ways"]) == 8
    assert numbers["flops_per_step"]["forward"] > 0
