"""SimCLR views, the SMILE objective: accelerate launch recipes/simclr_smile.py"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_smile", objective=im.SMILE(tau=5.0))
