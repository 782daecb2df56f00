"""Hooks of mkdocs: pages that are made from the code, and launch/README.md, which stands outside docs/."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site import command_line, recipe_keys

ROOT = Path(__file__).parent.parent
LAUNCH = ("README.md", "jobs/kubernetes.yaml", "jobs/kubernetes_nodes.yaml", "jobs/skypilot.yaml")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    made = {**recipe_keys.pages(), "reference/command_line.md": command_line.page()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for name in LAUNCH:
        source = ROOT / "launch" / name
        files.append(File.generated(config, f"launch/{name}", abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In the repository launch/ lies beside docs/, on the site below it."""
    return markdown.replace("../launch/", "launch/")
