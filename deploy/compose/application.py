"""A tiny partner application: each change of a database's name is one transaction that also inserts the event."""

import os

import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher import ResourceUpdated, publish

INSTALLATION = "icfg_partner"

engine = sa.create_engine(os.environ["DATABASE_URL"])
databases = sa.Table(
    "databases", sa.MetaData(), sa.Column("id", sa.String(64), primary_key=True), sa.Column("name", sa.String(64))
)


def rename(request: Request) -> Response:
    """`PUT /databases/ID?name=NAME`; with `&fail=true` the transaction is rolled back, and Vercel is not notified."""
    database, name = request.path_params["id"], request.query_params["name"]
    with engine.begin() as connection:
        if connection.execute(sa.update(databases).where(databases.c.id == database).values(name=name)).rowcount == 0:
            connection.execute(sa.insert(databases).values(id=database, name=name))
        publish(connection, ResourceUpdated(installation_id=INSTALLATION, resource_id=database))
        if "fail" in request.query_params:
            connection.rollback()
            return JSONResponse({"error": "rolled back"}, 500)
    return JSONResponse({"id": database, "name": name})


def show(request: Request) -> Response:
    """`GET /databases/ID`."""
    query = sa.select(databases).where(databases.c.id == request.path_params["id"])
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return JSONResponse({"id": row.id, "name": row.name} if row else {"error": "not found"}, 200 if row else 404)


app = Starlette(
    routes=[Route("/databases/{id}", rename, methods=["PUT"]), Route("/databases/{id}", show, methods=["GET"])]
)

if __name__ == "__main__":
    databases.metadata.create_all(engine)
    uvicorn.run(app, host=os.environ["HOST"], port=int(os.environ["PORT"]))
