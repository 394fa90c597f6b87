"""The server's own metrics during a run: read by the controller, kept with the run, on the clock of our stamps.

families.py says which metric of which server is which series; prometheus.py reads a page, gpu.py the GPUs of this
machine; sampling.py does so at equal times and at the window's edges; store.py is the file, readings.py what it says.
"""
