"""From the matrix of a finished run to what people read: tables, plots, one self-contained page.

`tables` compares runs (terminal, Markdown), `plots` draws them (SVG), `page` puts everything into one HTML file that
opens without a network; `examples` chooses the answers that are shown, `words` says the numbers in plain language.

    write_report([Path("runs/sequential"), Path("runs/replay")], Path("report.html"))
"""
