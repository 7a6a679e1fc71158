"""What pyproject.toml cannot say: three folders lie beside `compact_ds/` and install inside it."""

from setuptools import find_packages, setup  # type: ignore[import-untyped]

# None of them has an __init__.py: an importable top-level `kernels` would hide Hugging Face's package of that name.
# The links compact_ds/<folder> -> ../<folder> give a checkout the shape that is installed; `find_packages` does not
# enter them.
BESIDE = ("kernels", "launcher", "configs")

packages = find_packages(include=["compact_ds", "compact_ds.*"])
for folder in BESIDE:
    packages += [f"compact_ds.{folder}", *(f"compact_ds.{folder}.{sub}" for sub in find_packages(folder))]

setup(
    packages=packages,
    package_dir={f"compact_ds.{folder}": folder for folder in BESIDE},
    package_data={
        "compact_ds": ["py.typed"],
        "compact_ds.configs": ["*.yaml", "deepspeed/*.json", "deepspeed/*.md", "models/*.json", "sweeps/*.yaml"],
        "compact_ds.report": ["template/*"],
    },
)
