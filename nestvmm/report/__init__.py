"""One page that shows what was measured: nothing of it comes from the network, and nobody needs to see its pictures.

inputs   the files: benchmarks and accounts of runs
figure   a picture's data, with its words and its table
figures  the figures of a benchmark; exits: those of a run's account
scale    axes
drawing  a figure as SVG
goals    whether goals are met; tables: as HTML
page     the page: HTML and its style
plots    the figures by matplotlib
"""

from nestvmm.report.figure import Figure
from nestvmm.report.inputs import Inputs, read_inputs
from nestvmm.report.page import figures_of, page

__all__ = ["Figure", "Inputs", "figures_of", "page", "read_inputs"]
