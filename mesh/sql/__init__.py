"""SQL databases, for the parts that keep rows: the only place that knows drivers and dialects."""

from mesh.sql.alone import Alone as Alone
from mesh.sql.board import BOARD as BOARD
from mesh.sql.board import Notices as Notices
from mesh.sql.board import SqlBoard as SqlBoard
from mesh.sql.board import board_columns as board_columns
from mesh.sql.board import board_table as board_table
from mesh.sql.bulk import BulkUpdate as BulkUpdate
from mesh.sql.bulk import BulkUpsert as BulkUpsert
from mesh.sql.bulk import begins_with as begins_with
from mesh.sql.bulk import one_of as one_of
from mesh.sql.change import Change as Change
from mesh.sql.database import A_FILE as A_FILE
from mesh.sql.database import ONE_WRITER as ONE_WRITER
from mesh.sql.database import Database as Database
from mesh.sql.database import DatabaseErrors as DatabaseErrors
from mesh.sql.database import Executor as Executor
from mesh.sql.faults import FAULTS as FAULTS
from mesh.sql.insert import InsertAll as InsertAll
from mesh.sql.insert import InsertNew as InsertNew
from mesh.sql.notice import NOTIFY as NOTIFY
from mesh.sql.notice import Notice as Notice
from mesh.sql.options import split_options as split_options
from mesh.sql.partial import partial as partial
from mesh.sql.power import PowerLoss as PowerLoss
from mesh.sql.power import on_power_loss as on_power_loss
from mesh.sql.repeated import repeated as repeated
from mesh.sql.signals import Signals as Signals
from mesh.sql.signals import make_signals as make_signals
from mesh.sql.types import JobId as JobId
from mesh.sql.types import Moment as Moment
from mesh.sql.types import String as String
from mesh.sql.types import Text as Text
from mesh.sql.within import executor_within as executor_within

__all__ = [
    "A_FILE",
    "ONE_WRITER",
    "BOARD",
    "FAULTS",
    "NOTIFY",
    "Alone",
    "BulkUpdate",
    "BulkUpsert",
    "Change",
    "Database",
    "DatabaseErrors",
    "Executor",
    "InsertAll",
    "InsertNew",
    "JobId",
    "Moment",
    "Notice",
    "Notices",
    "PowerLoss",
    "Signals",
    "SqlBoard",
    "String",
    "Text",
    "partial",
    "repeated",
    "begins_with",
    "board_columns",
    "board_table",
    "executor_within",
    "make_signals",
    "on_power_loss",
    "one_of",
    "split_options",
]
