"""Views: static HTML, plots and live widgets. Nothing imports them.

They stand above everything that can be looked at (``container``, ``engine``, ``guest`` and ``book``) and are fed by
snapshots and sheets; a model knows no widget. The face registers what draws what by dotted name
(:data:`nsbook.inspectable.renderers`), and it is imported when first needed, so without ipywidgets the text and the
static HTML remain.

* :mod:`nsbook.views.sheet`: every object's default display. Semantic HTML that also reads with all styles stripped.
* :mod:`nsbook.views.assembly`: the live view of an :class:`~nsbook.Assembly`.
* :mod:`nsbook.views.style`: the style sheets. All colours are in ``palette.css``: they follow JupyterLab's ``--jp-*``
  and, without it, the text's own colour, so light and dark both work.

Widgets are anywidget modules (ESM and CSS in files of their own, no build, nothing fetched); they follow the ARIA
Authoring Practices for what they are made of.
"""
