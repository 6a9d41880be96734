"""What alembic runs: the migrations, in the transaction that `server.keeping.upgrades` has begun."""

from alembic import context

from fedsite.server.store.storage import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
