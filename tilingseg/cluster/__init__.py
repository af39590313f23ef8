"""The same plan on many machines, and many scenes in one go.

`tasks` is what a worker does, `vectors` how it makes vectors region by region, `foreman` hands the
tasks out over `dask.distributed` and keeps a `course` of each scene, `clusters` gets the workers
that a `recipe` describes. `manifest` finds the scenes of a batch, `ledger` knows what became of
each, `batch` does them one after the other or gives them to the foreman.

Only names and numbers go through the scheduler. Workers read scenes and write stores themselves,
so all machines must see the same folders under the same paths, or the same object store. What is
done is known from there alone (completion records, `run.json`, `failed.json`): whoever dies, the
same command goes on.

Dask is imported by `foreman` and `clusters` alone: a batch in one process works without it.
"""
