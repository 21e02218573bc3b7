"""Every figure by its name: what it is drawn from, and for which configs there is one.

Those of the paper's workloads, and of ours beside them, have a name each (``FIGURES``). Any other
workload that a config has, as a user's own trace, has the figures that need to know nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from harness.analysis import maps
from harness.cell import CellSpec, Mode, Tier
from harness.config import Config
from harness.engines.registry import ENGINES


@dataclass(frozen=True)
class Entry:
    """A figure: ``figures.<module>.draw`` of the cells of a tier, some modes and some workloads,
    on the patched engines of some packages.

    There is one for a config with such cells of at least one of the workloads, on engines that have
    the policies: of ``policy``, if given, and with so many different ``loads`` or more; in batches
    of one, where one load is enough, and of any size where 0 are. So if one cannot be drawn, it is
    not for what the config says.
    """

    title: str
    module: str
    tier: Tier
    workloads: tuple[str, ...]
    modes: tuple[Mode, ...] = ("batch",)
    loads: int = 1
    policy: str | None = None
    packages: tuple[str, ...] = ("vllm",)

    def is_for(self, config: Config) -> bool:
        """Return whether a config has the cells for it."""
        return all(
            len({cell.load for cell in self.cells(config, package)}) >= self.loads
            for package in self.packages
        )

    def shows(self, cell: CellSpec) -> bool:
        """Return whether a cell, whatever its policy and engine, is one of those that it is of."""
        return (
            cell.workload in self.workloads
            and cell.tier == self.tier
            and cell.load.mode in self.modes
            and (self.loads != 1 or getattr(cell.load, "batch_size", 1) == 1)
        )

    def cells(self, config: Config, package: str) -> list[CellSpec]:
        """Return the cells of a package that it is drawn from."""
        return [
            cell
            for cell in config.cells.values()
            if ENGINES[cell.engine].package == package and self._takes(cell)
        ]

    def _takes(self, cell: CellSpec) -> bool:
        return (
            self.shows(cell)
            and ENGINES[cell.engine].is_patched
            and self.policy in (None, cell.policy)
        )


_QUALITY, _QMSUM, _WIKIQA = "docqa-quality", "docqa-qmsum", "docqa-wikiqa"
_BAILIAN, _MOONCAKE, _SHAREGPT = (
    "conversation-bailian-a",
    "conversation-mooncake",
    "conversation-sharegpt",
)
# Short enough for an engine on the CPU, in process and on a server.
_SHORT, _CHAT = "conversation-short", "conversation-chat"

FIGURES = {
    "fig3": Entry("Figure 3: doc-QA, QuALITY-like", "cachesize", "replay", (_QUALITY,)),
    "fig3-cpu": Entry("Figure 3, measured: doc-QA, QuALITY-like", "measured", "cpu", (_QUALITY,)),
    "fig3-original": Entry(
        "Figure 3 on the paper's own documents: doc-QA, QuALITY",
        "cachesize",
        "replay",
        ("docqa-quality-original",),
    ),
    "fig3-qmsum": Entry("Figure 3 on real text: doc-QA, QMSum", "cachesize", "replay", (_QMSUM,)),
    "fig3-few": Entry(
        "Figure 3 with a quarter as many documents: doc-QA",
        "cachesize",
        "replay",
        ("docqa-few",),
    ),
    "fig3-uniform": Entry(
        "Figure 3 with every document as likely: doc-QA", "cachesize", "replay", ("docqa-uniform",)
    ),
    "fig3-sglang": Entry(
        "Figure 3 on SGLang: doc-QA, QuALITY-like",
        "cachesize",
        "replay",
        (_QUALITY,),
        packages=("sglang",),
    ),
    "fig3-sglang-cpu": Entry(
        "Figure 3, measured on SGLang: doc-QA, QuALITY-like",
        "measured",
        "cpu",
        (_QUALITY,),
        ("batch-http",),
        packages=("sglang",),
    ),
    "fig3-engines": Entry(
        "ARC less LRU on both engines: doc-QA, QuALITY-like",
        "engines",
        "replay",
        (_QUALITY,),
        packages=("vllm", "sglang"),
    ),
    "fig4": Entry("Figure 4: doc-QA, WikiQA-like", "cachesize", "replay", (_WIKIQA,)),
    "fig5": Entry(
        "Figure 5: conversation, Qwen-Bailian trace A", "cachesize", "replay", (_BAILIAN,)
    ),
    "fig5-mooncake": Entry(
        "Figure 5, another trace: conversation, Mooncake", "cachesize", "replay", (_MOONCAKE,)
    ),
    "fig5-sharegpt": Entry(
        "Figure 5, another source: conversation, ShareGPT", "cachesize", "replay", (_SHAREGPT,)
    ),
    "fig5-cpu": Entry(
        "Figure 5, measured: conversation, ShareGPT for the trace", "measured", "cpu", (_SHORT,)
    ),
    "fig6": Entry(
        "Figure 6: batch inference, QuALITY-like", "batchsize", "replay", (_QUALITY,), loads=2
    ),
    "fig6-cpu": Entry(
        "Figure 6, measured: batch inference, QuALITY-like",
        "batchhttp",
        "cpu",
        (_QUALITY,),
        ("batch-http",),
        loads=2,
    ),
    "fig7": Entry(
        "Figure 7: recent and frequent blocks",
        "t1share",
        "replay",
        (_QUALITY, _BAILIAN, _SHAREGPT, _MOONCAKE),
        policy="arc",
    ),
    "adaptation": Entry(
        "ALRFU while the traffic changes: the half-life that it follows, and hit rates",
        "adaptation",
        "replay",
        ("docqa-sharegpt-docqa",),
        policy="alrfu",
    ),
    "fleet": Entry(
        "Fleets: several engines behind a router",
        "fleet",
        "replay",
        (_QUALITY, _SHAREGPT),
        ("fleet",),
        loads=2,
    ),
    "online-ttft": Entry(
        "Online traffic: distribution of TTFT",
        "onlinettft",
        "cpu",
        (_QUALITY, _CHAT),
        ("open-loop", "closed-loop"),
    ),
    "online-rate": Entry(
        "Online traffic: TTFT against request rate",
        "onlinerate",
        "cpu",
        (_QUALITY,),
        ("open-loop",),
        loads=2,
    ),
    "online-hitrate": Entry(
        "Online traffic: hit rate over time",
        "onlinehitrate",
        "cpu",
        (_QUALITY, _CHAT),
        ("open-loop", "closed-loop"),
    ),
    "online-t1share": Entry(
        "Online traffic: recent and frequent blocks",
        "onlinet1share",
        "cpu",
        (_QUALITY,),
        ("open-loop",),
        policy="arc",
    ),
    "online-turns": Entry(
        "Conversation: TTFT and hit rate by turn",
        "onlineturns",
        "cpu",
        (_CHAT,),
        ("closed-loop", "open-loop"),
    ),
    "fig3-gpu": Entry("Figure 3 on a GPU: doc-QA, QuALITY-like", "measured", "gpu", (_QUALITY,)),
    "fig5-gpu": Entry(
        "Figure 5 on a GPU: conversation, Qwen-Bailian trace A", "measured", "gpu", (_BAILIAN,)
    ),
    "fig6-gpu": Entry(
        "Figure 6 on a GPU: batch inference, QuALITY-like",
        "batchhttp",
        "gpu",
        (_QUALITY,),
        ("batch-http",),
        loads=2,
    ),
    "online-ttft-gpu": Entry(
        "Online traffic on a GPU: distribution of TTFT",
        "onlinettft",
        "gpu",
        (_QUALITY,),
        ("open-loop",),
    ),
    "online-rate-gpu": Entry(
        "Online traffic on a GPU: TTFT against request rate",
        "onlinerate",
        "gpu",
        (_QUALITY,),
        ("open-loop",),
        loads=2,
    ),
}


def entries(config: Config) -> dict[str, Entry]:
    """Return the figures that there are for a config, by name."""
    if config.map is not None:
        title = "Where ARC helps, and where any policy does: the map"
        return {"map": Entry(title, "map", "replay", tuple(config.workloads))}
    if config.swept:
        title = "What constants of policies matter"
        sweep = Entry(title, "sweep", "replay", tuple(config.swept))
        change = {name: entry for name, entry in FIGURES.items() if entry.module == "adaptation"}
        return {"sweep": sweep} | {n: entry for n, entry in change.items() if entry.is_for(config)}
    named = {name: entry for name, entry in FIGURES.items() if entry.is_for(config)}
    others = _of_others(config, list(named.values()))
    return named | others | _of_policies(config) | _of_alrfu(config)


def names(config: Config) -> list[str]:
    """Return the names of the figures that there are for a config."""
    return list(entries(config))


def _of_others(config: Config, named: Sequence[Entry]) -> dict[str, Entry]:
    """Return figures for the cells that no figure of a name of its own shows.

    They are by tier and workload: the hit rate, whatever the load; of a study, what the traffic is
    like and where it lies on the map that is shipped; and what ARC did in tier replay.
    """
    found: dict[str, Entry] = {}
    for cell in config.cells.values():
        if any(entry.policy is None and entry.shows(cell) for entry in named):
            continue
        workload, tier = cell.workload, cell.tier
        where = workload if tier == "replay" else f"{workload}-{tier}"
        found[f"hitrate-{where}"] = Entry(
            f"Hit rate: {workload}",
            "hitrate",
            tier,
            (workload,),
            get_args(Mode),
            loads=0,
            packages=tuple(dict.fromkeys(kind.package for kind in ENGINES.values())),
        )
        split = Entry(
            f"Recent and frequent blocks: {workload}",
            "t1share",
            "replay",
            (workload,),
            policy="arc",
        )
        if config.study is not None:
            found[f"why-{workload}"] = Entry(
                f"Why policies differ: {workload}", "why", tier, (workload,)
            )
            if maps.SHIPPED.is_file():
                found[f"where-{workload}"] = Entry(
                    f"Where it lies on the map: {workload}", "map", tier, (workload,)
                )
        if split.is_for(config) and not any(
            entry.module == split.module and workload in entry.workloads for entry in named
        ):
            found[f"t1share-{workload}"] = split
    return found


def _of_policies(config: Config) -> dict[str, Entry]:
    """Return the figure of all policies, of the workloads with two or more beside LRU."""
    title = "Policies side by side: points over LRU, and the cache that LRU would need"
    entry = Entry(title, "policies", "replay", tuple(config.workloads))
    engine: dict[str, set[str]] = {}
    for cell in entry.cells(config, "vllm"):
        engine.setdefault(cell.workload, set()).add(cell.policy)
    workloads = tuple(
        name
        for name, policies in engine.items()
        if "lru" in policies and (len(policies) > 2 or name in config.rivals)
    )
    return {"policies": replace(entry, workloads=workloads)} if workloads else {}


def _of_alrfu(config: Config) -> dict[str, Entry]:
    """Return the figure of what policies leave in the cache for nothing, where alrfu is replayed.

    Others leave it, too; but to show that one policy does not is what it is for.
    """
    title = "Cached blocks that cannot be reached"
    entry = Entry(title, "unreachable", "replay", tuple(config.workloads), policy="alrfu")
    workloads = tuple(dict.fromkeys(cell.workload for cell in entry.cells(config, "vllm")))
    return {"unreachable": replace(entry, workloads=workloads)} if workloads else {}
