"""Whether the data are valid, in two steps: KFP stores the outputs of a step only if the step succeeds.

So `validate` always succeeds if it could write its report, and `require_valid` fails if the report names faults.
"""

import shutil
import sys
from pathlib import Path

from catalog import store
from catalog.schema import DataError
from components.params import ValidateParams
from components.validate import ValidationFailed, validate
from validation.data_page import PAGE


def list_faults(data: Path, report: Path, params: ValidateParams) -> str:
    """Check a data set, and write the report whether or not the data are valid.

    Args:
        data: A data set; see `catalog.schema`.
        report: Gets the report; see `components.validate.validate`.
        params: Parameters of validate.

    Returns:
        The faults, a line each; "" if there are none.

    Raises:
        DataError: if there is no report, for instance because MLflow cannot be reached.
    """
    try:
        validate(data, params, report)
    except ValidationFailed as failure:
        print(f"validate: {failure.faults}", file=sys.stderr)
        shutil.rmtree(report, ignore_errors=True)  # of an earlier attempt
        failure.report.rename(report)
        return failure.faults
    return ""


def accept_report(checked: Path, faults: str, address: str, report: Path) -> None:
    """Copy the report of valid data.

    Args:
        checked: The report that `list_faults` wrote.
        faults: What `list_faults` returned.
        address: Where the report is stored, for the message.
        report: Gets the copy.

    Raises:
        DataError: if there are faults.
    """
    if faults:
        raise DataError(f"{faults}\nThe full report is {address.rstrip('/')}/{PAGE}")
    with store.new_atomic_dir(report) as folder:
        shutil.copytree(checked, folder, dirs_exist_ok=True)
