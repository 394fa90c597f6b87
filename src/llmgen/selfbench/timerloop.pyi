import numpy as np
from numpy.typing import NDArray

def lags(due: NDArray[np.int64]) -> NDArray[np.int64]: ...
