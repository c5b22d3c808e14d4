"""`sr-deploy gstreamer`: build the GStreamer plugin and say where it is."""

from __future__ import annotations

from pathlib import Path

import click

from sr_deploy.cli.shared.paths import NamedPath


@click.command("gstreamer")
@click.option(
    "--plugin-path", is_flag=True, help="Print only the folder for the variable GST_PLUGIN_PATH, on one line."
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    help="Folder to build into, even if the plugin is there already. [default: in the user's cache folder, built once]",
)
@click.option(
    "--compiler",
    help="Command of the C compiler. [default: the environment variable CC, else cc, gcc or clang]",
)
def command(plugin_path: bool, output: Path | None, compiler: str | None) -> None:
    """Build the GStreamer element and print its place.

    The element is sruscale; GStreamer finds it by the variable GST_PLUGIN_PATH.

    The plugin runs the sr-deploy that is installed for this Python. The build needs a C compiler, Python's headers and
    shared library, pkg-config and GStreamer's headers.
    """
    from sr_deploy.gstreamer.build import build_plugin, cached_plugin
    from sr_deploy.models import model_for_scale, survey_models

    scales = sorted({entry.scale for entry in survey_models()[0]})
    bundled = {scale: model_for_scale(scale) for scale in scales}
    if output is None:
        plugin = cached_plugin(bundled, compiler=compiler)
    else:
        plugin = build_plugin(output, bundled, compiler=compiler)
    if plugin_path:
        click.echo(str(plugin.folder))
        return
    import shlex

    click.echo("run this line in your shell, or set the variable in the environment of your program:")
    click.echo(
        f"export GST_PLUGIN_PATH={shlex.quote(str(plugin.folder))}${{GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}}"
    )
    click.echo("then try: gst-launch-1.0 videotestsrc ! sruscale model=rt-x2 ! videoconvert ! autovideosink")
