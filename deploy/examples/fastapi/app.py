"""A partner's application with SQLAlchemy and FastAPI: a change and its event are one transaction.

DATABASE_URL=postgresql://… uvicorn app:app
"""

import os

from fastapi import FastAPI, HTTPException
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from dispatcher import ResourceUpdated, publish


class Base(DeclarativeBase):
    """The partner's tables."""


class Database(Base):
    """A product sold on the Marketplace: a resource of an installation."""

    __tablename__ = "databases"
    id: Mapped[str] = mapped_column(primary_key=True)
    installation_id: Mapped[str]
    name: Mapped[str]


engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))
# `dispatcher migrate` creates the dispatcher's tables. With Alembic, pass `include_object=dispatcher.include_object` to
# `context.configure`; otherwise autogenerate proposes to drop them. See ../recipes.md.
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
app = FastAPI()


@app.put("/databases/{database_id}")
def rename(database_id: str, name: str) -> dict[str, str]:
    """Renames a database and publishes the event that notifies Vercel."""
    with Session.begin() as session:  # commits at its end, rolls back if anything raises
        database = session.get(Database, database_id, with_for_update=True)
        if database is None:
            raise HTTPException(404, "no such database")
        database.name = name
        session.flush()
        publish(session, ResourceUpdated(installation_id=database.installation_id, resource_id=database.id))
        if not name:
            raise HTTPException(422, "a database needs a name")  # rolls back the event with the change
    return {"id": database_id, "name": name}
