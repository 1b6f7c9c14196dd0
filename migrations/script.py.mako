"""${message}

Revision: ${up_revision}, after: ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Upgrades to this revision. Each step must be repeatable: on MySQL and MariaDB, an interrupted run leaves its first steps done."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Downgrades to the previous revision."""
    ${downgrades if downgrades else "pass"}
