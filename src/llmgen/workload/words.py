"""Common short English words, lower case, each one token (with the space before it) in most vocabularies."""

from __future__ import annotations

from typing import Final

_WORDS: Final = """
    the of and to in is that it was for on are as with his they at be this from have or by one had not but what all
    were when we there can an your which their said if do will each about how up out them then she many some so these
    would other into has more her two like him see time could no make than first been its who now people my made over
    did down only way find use may water long little very after words called just where most know get through back
    much go good new write our me man too any day same right look think also around another came come work three must
    because does part even place well such here take why help put different away again off went old number great tell
    men say small every found still between name should home big give air line set own under read last never us left
    end along while might next sound below saw something thought both few those always show large often together asked
    house world going want school important until form food keep children feet land side without boy once animal life
    enough took four head above kind began almost live page got earth need far hand high year mother light country
    father let night picture being study second soon story since white ever paper hard near sentence better best across
    during today however sure knew try told young sun thing whole hear example heard several change answer room sea
    against top turned learn point city play toward five himself usually money seen car morning body upon family later
    turn move face door cut done group true half red fish plants living black eat short run book gave order open ground
    cold really table remember tree course front space inside ago sad early learned brought close nothing though idea
    became add become grow draw yet less wind behind cannot letter among able dog shown mean english rest perhaps
    certain six feel fire ready green built special ran full town complete oh person hot anything hold state list stood
    hundred ten fast felt kept notice strong voice area matter box class piece surface river common stop am talk
    whether fine round dark past ball girl tried road questions blue meaning coming instead held already warm gone
    finally summer understand moon animals mind outside power problem longer winter deep heavy carefully follow
    beautiful everyone leave everything game system bring watch shell dry within floor ice ship themselves begin fact
    third quite carry distance although sat possible heart real simple snow rain suddenly leaves easy lay size wild
    weather miss pattern sky walked main someone center field stay boat question wide least tiny hour happened
"""

COMMON_WORDS: Final = tuple(_WORDS.split())
