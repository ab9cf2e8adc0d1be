"""The command line: one short function a command. Each imports only what it needs."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from errno import ENAMETOOLONG
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from launcher import __version__
from launcher.errors import AdaptrunError, ExitCode
from launcher.job.home import settle_home
from launcher.terminal import write_plainly

if TYPE_CHECKING:
    from launcher.job.schema import Model

app = typer.Typer(
    name="adaptrun",
    help="Take a pretrained model to a new domain: one job file, from a laptop to a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=C", help="Override a value of the job file; a.b+=[c] adds to a list; repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Resume = Annotated[
    str,
    typer.Option(
        metavar="auto|never|PATH",
        help="auto: resume the last unfinished run; never: start a new run; PATH: resume that run or checkpoint.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]
ModelFolder = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder or a finished run.", show_default=False)
]
Processes = Annotated[int | None, typer.Option("--processes", min=1, help="Processes; default as for a job.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples of full length per evaluation batch.")]
DataFile = Annotated[
    str,
    typer.Option("--data", help="A file or folder of samples, as in a job's data.train.source, or a hub id."),
]
TextColumn = Annotated[str, typer.Option("--text", help="Column of the text.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a `datasets` folder or a hub id.")]
Quoting = Annotated[
    bool | None,
    typer.Option("--quoting/--no-quoting", help="Whether fields may be quoted; default: in csv files only."),
]
Encoding = Annotated[str, typer.Option("--encoding", help="Encoding of a csv, tsv or jsonl file.")]
LabelFormat = Annotated[
    Literal["auto", "names", "vector"],
    typer.Option(
        "--label-format",
        help="Several labels per sample: a list of their names, or a vector of 0 and 1; auto: as in training.",
    ),
]
LabelSeparator = Annotated[str, typer.Option("--label-separator", help="Separator between several labels in one text.")]
LabelColumn = Annotated[str, typer.Option("--label", help="Column of the label.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="ROLE=NAME", help="Another column, such as prompt=question; repeatable."),
]
TrustCode = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust-code",
        metavar="FILE",
        help="A Python file of yours that the model folder is allowed to run; repeatable.",
    ),
]


def sbatch_option(*names: str, metavar: str, help: str) -> Any:
    """An option of `submit` that overrides the profile; `--help` shows these in a panel of their own."""
    return typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel="Options of sbatch, which override the profile's"
    )


class NumberFormat(StrEnum):
    """Number formats of a model folder."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(f"adaptrun {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""
    settle_home()


@app.command()
def init(
    task: Annotated[
        str, typer.Option(help="The task; an unknown name prints the list of tasks.")
    ] = "text-classification",
    output: Annotated[Path, typer.Option("--output", "-o", help="Path of the job file to write.")] = Path("job.yaml"),
) -> None:
    """Write a commented job file to start from."""
    from launcher.job.starter import write_starter

    write_starter(task, output)
    print(f"wrote {output}; next: adaptrun check {output}")


@app.command()
def check(job: JobFile, sets: Sets = None, trust_code: TrustCode = None, as_json: AsJson = False) -> None:
    """Report everything that is wrong with a job file, without starting anything."""
    from launcher.commands.check import check_job_file

    check_job_file(job, with_trust(sets, trust_code), as_json)


@app.command()
def plan(
    job: JobFile,
    sets: Sets = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Show which engines fit this number of GPUs per node.")
    ] = None,
    gpu_memory: Annotated[str, typer.Option(help="Memory of each GPU, such as 80GiB.")] = "80GiB",
    nodes: Annotated[int, typer.Option(min=1, help="Number of such nodes.")] = 1,
    trust_code: TrustCode = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run: processes, engine, the split of the batch, steps, commands; or what fits given GPUs."""
    from launcher.commands.check import check_models
    from launcher.job.reading.job_file import load_job
    from launcher.plan.planner import make_plan

    sets = with_trust(sets, trust_code)
    if gpus is not None:
        from launcher.plan.table import Table, parse_size

        table = Table.of(load_job(job, sets), gpus * nodes, parse_size(gpu_memory))
        print(table.as_json() if as_json else table)
        return
    asked = load_job(job, sets)
    made = make_plan(asked, job).with_sets(sets)
    check_models([("", asked, made)])
    print(made.as_json() if as_json else made)


@app.command()
def train(
    job: JobFile,
    sets: Sets = None,
    resume: Resume = "auto",
    gate: Annotated[bool, typer.Option("--gate", help="Exit with code 1 unless the verdict is to adopt.")] = False,
    dry_run: DryRun = False,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr", help="Learning rate range test: raise the rate step by step, suggest one, and keep no model."
        ),
    ] = False,
    trust_code: TrustCode = None,
) -> None:
    """Fine-tune and validate; the run folder then holds the model and a verdict on it."""
    sets = [*with_trust(sets, trust_code), *(["verdict.gate=true"] if gate else ())]
    if dry_run:
        return plan(job, sets)
    if find_lr:
        from launcher.commands.lr_range_test import find_learning_rate
        from launcher.job.reading.job_file import load_job

        return find_learning_rate(load_job(job, sets), job)
    from launcher.commands.train import train_job
    from launcher.job.reading.job_file import load_job

    train_job(load_job(job, sets), job, resume, last=True)
    return None


@app.command()
def gap(
    job: JobFile,
    sets: Sets = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features/--no-features",
            help="Also compute what needs the model's features, or only what needs the samples alone.",
        ),
    ] = True,
    label_errors: Annotated[
        bool | None,
        typer.Option(
            "--label-errors/--no-label-errors", help="Look for label errors; default: if cleanlab is installed."
        ),
    ] = None,
    trust_code: TrustCode = None,
    as_json: AsJson = False,
) -> None:
    """Report whether a job's data are fit for fine-tuning, and how far the target is from the source."""
    from launcher.commands.gap import measure_gap
    from launcher.job.reading.job_file import load_job

    raise typer.Exit(
        measure_gap(load_job(job, with_trust(sets, trust_code), trains=False), features, label_errors, as_json)
    )


@app.command()
def leave_one_out(
    job: JobFile,
    sets: Sets = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    trust_code: TrustCode = None,
    as_json: AsJson = False,
) -> None:
    """Train once without each of several training sets, and measure the model on the set left out."""
    from launcher.commands.leave_one_out import leave_one_out as run_all
    from launcher.commands.leave_one_out import show_plans
    from launcher.job.reading.job_file import load_job

    if dry_run:
        return show_plans(load_job(job, with_trust(sets, trust_code)), job, as_json)
    return run_all(load_job(job, with_trust(sets, trust_code)), job, resume, as_json)


@app.command()
def submit(
    job: JobFile,
    profile: Annotated[Path, typer.Option(help="The cluster's profile (YAML), such as slurm/example.yaml.")],
    sets: Sets = None,
    each: Annotated[
        list[str] | None,
        typer.Option(metavar="A.B=[C, D]", help="Run the job once for each value, as an array; repeatable."),
    ] = None,
    resume: Resume = "auto",
    after: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start only once this run's job has succeeded.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script and stop.")] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Print when the scheduler could start the job, and stop.")
    ] = False,
    time: Annotated[
        str | None,
        sbatch_option(
            "--time",
            "-t",
            metavar="TIME",
            help="Time limit, as sbatch takes it: 20:00, 12:00:00 or 1-12:00:00.",
        ),
    ] = None,
    partition: Annotated[
        str | None, sbatch_option("--partition", "-p", metavar="NAME", help="Partition (queue): NAME or NAME,NAME.")
    ] = None,
    account: Annotated[
        str | None, sbatch_option("--account", "-A", metavar="NAME", help="Account that the time is charged to.")
    ] = None,
    qos: Annotated[str | None, sbatch_option("--qos", "-q", metavar="NAME", help="Quality of service.")] = None,
    reservation: Annotated[
        str | None, sbatch_option("--reservation", metavar="NAME", help="Reservation that the nodes come from.")
    ] = None,
    constraint: Annotated[
        str | None,
        sbatch_option(
            "--constraint", "-C", metavar="FEATURES", help="Features that the nodes must have: a100, or 'a100&nvlink'."
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        sbatch_option(
            "--exclude", "-x", metavar="NODES", help="Nodes that must not be used: node3,node7 or node[1-4]."
        ),
    ] = None,
    nodes: Annotated[int | None, sbatch_option("--nodes", "-N", metavar="COUNT", help="Number of nodes.")] = None,
    gpus_per_node: Annotated[
        int | None, sbatch_option("--gpus-per-node", metavar="COUNT", help="Number of GPUs on each node.")
    ] = None,
    gpu_memory: Annotated[
        str | None,
        sbatch_option(
            "--gpu-memory",
            metavar="SIZE",
            help="Memory of each GPU, such as 80GiB; for adaptrun's plan, not passed to sbatch.",
        ),
    ] = None,
    cpus_per_node: Annotated[
        int | None,
        sbatch_option("--cpus-per-task", "-c", metavar="COUNT", help="CPUs on each node, all for its one task."),
    ] = None,
    memory: Annotated[
        str | None,
        sbatch_option("--mem", metavar="SIZE", help="Memory of each node: 200G, 64000 (MiB), or 0: all."),
    ] = None,
    extra: Annotated[
        list[str] | None,
        sbatch_option(
            "--sbatch",
            metavar="OPTION",
            help="Any other option of sbatch: --sbatch=--exclusive, --sbatch=--mail-type=END; repeatable.",
        ),
    ] = None,
    trust_code: TrustCode = None,
) -> None:
    """Queue the job on a SLURM cluster."""
    from launcher.commands.submit import show_script, submit_job

    options = {
        "time": time, "partition": partition, "account": account, "qos": qos, "reservation": reservation,
        "constraint": constraint, "exclude": exclude, "nodes": nodes, "gpus_per_node": gpus_per_node,
        "gpu_memory": gpu_memory, "cpus_per_node": cpus_per_node, "memory": memory, "extra": extra,
    }  # fmt: skip
    sets = with_trust(sets, trust_code)
    if dry_run or test:
        show_script(job, sets, profile, each or (), test, options)
    else:
        submit_job(job, sets, profile, each or (), resume, after, options)


@app.command()
def status(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run's folder; default: all in runs/.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a run: queue, step, loss, speed, time left, starts, and where its time went."""
    from launcher.commands.status import show_status

    show_status(run, as_json)


@app.command()
def logs(
    run: Run,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Log of one rank; default: the output of the batch job.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")] = False,
) -> None:
    """Print the logs of a run."""
    from launcher.commands.status import show_logs

    show_logs(run, rank, follow)


@app.command()
def cancel(
    run: Run,
    now: Annotated[bool, typer.Option("--now", help="Cancel a batch job without saving a checkpoint.")] = False,
) -> None:
    """Save and stop a run, on this machine or in the queue."""
    from launcher.commands.status import cancel_run

    cancel_run(run, now)


@app.command()
def evaluate(
    model: ModelFolder,
    data: DataFile,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    label_format: LabelFormat = "auto",
    label_separator: LabelSeparator = ",",
    columns: Columns = None,
    split: Split = None,
    encoding: Encoding = "utf-8",
    quoting: Quoting = None,
    batch_size: BatchSize = 32,
    processes: Processes = None,
    trust_code: TrustCode = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model folder on labelled data; every sample counts once."""
    from launcher.commands.evaluate import evaluate_model
    from launcher.job.requests import source_of

    source = source_of(
        data,
        {"text": text, "label": label},
        columns or (),
        label_format=label_format,
        label_separator=label_separator,
        split=split,
        encoding=encoding,
        quoting=quoting,
    )
    evaluate_model(named_model(model, trust_code), source, batch_size, processes, as_json)


@app.command()
def predict(
    model: ModelFolder,
    data: DataFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of predictions to write: .csv, .jsonl or .parquet.")
    ],
    text: TextColumn = "text",
    columns: Columns = None,
    split: Split = None,
    encoding: Encoding = "utf-8",
    quoting: Quoting = None,
    batch_size: BatchSize = 32,
    processes: Processes = None,
    trust_code: TrustCode = None,
) -> None:
    """Write the model's answer for each row of a file."""
    from launcher.commands.evaluate import predict_with_model
    from launcher.job.requests import source_of

    source = source_of(data, {"text": text}, columns or (), split=split, encoding=encoding, quoting=quoting)
    predict_with_model(named_model(model, trust_code), source, output, batch_size, processes)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Runs' folders.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what differs between runs: in job, data, plan, environment and result."""
    from launcher.commands.compare import compare_runs

    compare_runs(runs, as_json)


@app.command()
def consolidate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run, one of its checkpoints, a folder of DeepSpeed or torch.distributed.checkpoint, or adapters, "
            "which are merged with their base."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    dtype: Annotated[NumberFormat, typer.Option(help="Number format of the weights.")] = NumberFormat.FP32,
    like: Annotated[
        Path | None, typer.Option(help="Model folder to copy config and tokenizer from; default: the run's.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the weights' names in another program's checkpoint, such as `model.`")
    ] = None,
    trust_code: TrustCode = None,
) -> None:
    """Write a model folder from a checkpoint or from adapters, one tensor in memory at a time."""
    from launcher.commands.consolidate import consolidate_checkpoint

    consolidate_checkpoint(checkpoint, output, dtype.value, like, prefix, [str(file) for file in trust_code or ()])


@app.command()
def soup(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of one model, or model folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    dtype: Annotated[NumberFormat, typer.Option(help="Number format of the weights.")] = NumberFormat.FP32,
    processes: Processes = None,
    trust_code: TrustCode = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of several runs, keeping those that make it no worse on the first run's validation set."""
    from launcher.commands.soup import soup_runs

    soup_runs(runs, output, dtype.value, processes, as_json, [str(file) for file in trust_code or ()])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check whether this machine has what a run needs, and say how to fix what is missing."""
    from launcher.commands.doctor import print_diagnosis

    raise typer.Exit(print_diagnosis(as_json))


@app.command()
def selfcheck(as_json: AsJson = False) -> None:
    """Train a small job over every engine and split this machine has; print the largest difference."""
    from launcher.commands.selfcheck import run_selfcheck

    raise typer.Exit(run_selfcheck(as_json))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the job files, the data and the runs.")] = Path(
        "adaptrun-demo"
    ),
) -> None:
    """Take a real model from film reviews to tweets, on two processes, in minutes."""
    from launcher.commands.demo import run_demo

    run_demo(folder)


def with_trust(sets: list[str] | None, files: list[Path] | None) -> list[str]:
    """The overrides, with the files whose code may run, in addition to those of the job."""
    named = json.dumps([str(file.resolve()) for file in files or ()], ensure_ascii=False)
    return [*(sets or ()), *([f"model.trust_code+={named}"] if files else ())]


def named_model(place: str, files: list[Path] | None) -> Model:
    """A model of the command line."""
    from launcher.job.schema import Model

    return Model(pretrained=place, trust_code=tuple(str(file.resolve()) for file in files or ()))


def main() -> None:
    """Run the command line; errors meant for the user are printed without a traceback."""
    write_plainly()
    try:
        app()
    except AdaptrunError as error:
        print(f"adaptrun: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        print(f"adaptrun: {str(error.filename)[:60]}... is longer than a path can be; check it", file=sys.stderr)
        sys.exit(ExitCode.WRONG_REQUEST)
