# Everything sets itself up: a fresh clone and Python 3.11 are enough.
PYTHON ?= python3.11
export OPTIONS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
BCCP_HOME ?= $(HOME)/.bccp
export BCCP_HOME
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
unexport PYTHONDONTWRITEBYTECODE  # pip compiles nothing here: a module is compiled once, when it is first imported
unexport MLFLOW_EXPERIMENT_ID MLFLOW_RUN_ID  # of somebody's other work; `mlflow run` takes no experiment's id beside its name

.PHONY: run test test-quick test-slow torture lint benchmark benchmark-labels benchmark-photographs benchmark-untrusted benchmark-serve why export clean-images clean-home wandb-sync dashboard contract clean sweep-report report promote rollback predict serve check-new accept compare export-model

run: .venv/.run  ## the whole pipeline; OPTIONS="noisy_labels.user_accuracy=0.6" passes Hydra options
	@uri="$$(python -m bccp.tracking.store)" && \
	  MLFLOW_TRACKING_URI="$$uri" MLFLOW_EXPERIMENT_NAME=bccp MLFLOW_LOGGING_LEVEL=WARNING \
	  mlflow run . --env-manager=local -P hydra_options="$$OPTIONS"

test-quick: .venv/.dev  ## the unit tests alone (a minute)
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" tests/unit

test: .venv/.dev lint  ## lint, types, security and the fast tests (at most 10 minutes)
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: .venv/.dev  ## what takes longer (at most 30 minutes)
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

torture: .venv/.dev  ## each step stopped 20 times at random moments
	BCCP_KILL_ROUNDS=20 python -m pytest tests/e2e/test_kills.py

lint: .venv/.dev
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	bandit -q -r src main.py fetch_data preprocessing segregation noisy_labels bayes_cutoff cp_sampling train test -c pyproject.toml

benchmark: .venv/.dev  ## the figures of the README; takes minutes
	python -m benchmarks

benchmark-labels: .venv/.dev  ## finding wrong labels against peers, hours; DATA=folder or archive, FEEDBACK=csv,csv, SEEDS=3
	@python -m benchmarks.labels $(if $(DATA),--data "$(DATA)") $(if $(FEEDBACK),--feedback "$(FEEDBACK)") \
	  $(if $(SEEDS),--seeds "$(SEEDS)") -- "$$OPTIONS"

benchmark-photographs: .venv/.dev  ## a pretrained backbone on photographs: splits, days, cold run, speed; DATA=folder or archive, SEEDS=20; an hour
	@python -m benchmarks.photographs $(if $(DATA),--data "$(DATA)") $(if $(SEEDS),--seeds "$(SEEDS)") -- $$OPTIONS

benchmark-untrusted: .venv/.dev  ## wrong labels where nothing is trusted, beside cleanlab; DATA=folder or archive,… FEEDBACK=csv,… SEEDS=5; hours
	@python -m benchmarks.untrusted $(if $(DATA),--data "$(DATA)") $(if $(FEEDBACK),--feedback "$(FEEDBACK)") $(if $(SEEDS),--seeds "$(SEEDS)") -- $$OPTIONS

benchmark-serve: .venv/.dev  ## the service beside LitServe, BentoML and mlflow models serve, killed, reloaded, for 100,000 requests; wrk; ONLY="reload start" ROUNDS=3; a quarter of an hour
	@python -m benchmarks.serve $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds "$(ROUNDS)")

# each of the following is a command of bccp, with the variables of its line as options: see bccp --help
why: .venv/.run  ## why a step would run, without running anything: STEP=train, and OPTIONS as for run
	@bccp why "$(STEP)" "$$OPTIONS"

export: .venv/.run  ## the cleaned data set: OUT=folder or URL, RUN=run id or summary.json (else the newest finished run), FORMAT=, ACTION=, MIN_CONFIDENCE=
	@bccp export-data --out "$(OUT)" --run "$(RUN)" $(if $(FORMAT),--format "$(FORMAT)") \
	  $(if $(ACTION),--action "$(ACTION)") $(if $(MIN_CONFIDENCE),--min-confidence "$(MIN_CONFIDENCE)") $(if $(filter yes,$(APPLY)),--apply)

clean-images: .venv/.run  ## wrong labels in one folder, archive or URL: DATA=; OUT=folder; AUDIT=, FEEDBACK=csv; TRUSTED=folder; ACTION=, MIN_CONFIDENCE=; OPTIONS as for run
	@bccp clean "$(DATA)" $(if $(OUT),--out "$(OUT)") $(if $(AUDIT),--audit "$(AUDIT)") $(if $(FEEDBACK),--feedback "$(FEEDBACK)") \
	  $(if $(TRUSTED),--trusted "$(TRUSTED)") $(if $(ACTION),--action "$(ACTION)") $(if $(MIN_CONFIDENCE),--min-confidence "$(MIN_CONFIDENCE)") -- "$$OPTIONS"

check-new: .venv/.run  ## check incoming images and keep them apart: DATA=folder or archive; REFERENCE=run; ACCEPT=yes; OPTIONS as for run
	@bccp check-new --data "$(DATA)" --reference "$(REFERENCE)" $(if $(filter yes,$(ACCEPT)),--accept) -- "$$OPTIONS"

accept: .venv/.run  ## join a batch that was checked with the known images: ID=
	@bccp accept "$(ID)"

compare: .venv/.run  ## two pipelines or data versions side by side: A= and B= run id, run folder, summary.json or clean_data:digest; OUT=folder
	@bccp compare "$(A)" "$(B)" $(if $(OUT),--out "$(OUT)")

clean-home: .venv/.run  ## what the home holds; DELETE=yes deletes what no named or recent run needs (KEEP_DAYS=30; KEEP=run or folder names one)
	@bccp gc $(if $(filter yes,$(DELETE)),--delete) $(if $(KEEP_DAYS),--keep-days "$(KEEP_DAYS)") --keep "$(KEEP)"

report: .venv/.run  ## one page on a pipeline, opened where there is a screen: RUN=folder or id (else the newest)
	@bccp report "$(RUN)"

sweep-report: .venv/.run  ## one page on a sweep, whatever became of its jobs: DIR=folder or id (else the newest)
	@bccp sweep-report "$(DIR)"

promote: .venv/.run  ## a registered version is the champion: MODEL=name/version; FORCE=yes although it was rejected or held
	@bccp promote "$(MODEL)" $(if $(filter yes,$(FORCE)),--force)

rollback: .venv/.run  ## the champion before this one is the champion again: MODEL=name (bccp)
	@bccp rollback $(if $(MODEL),--model "$(MODEL)")

predict: .venv/.run  ## classes of images: MODEL=models:/bccp@champion (or a run's id) or URL=of a bccp serve, IMAGES=folder or file, OUT=predictions.csv
	@bccp predict $(if $(URL),--url "$(URL)",--model "$(MODEL)") --images "$(IMAGES)" $(if $(OUT),--out "$(OUT)")

serve: .venv/.run  ## answer on images over HTTP: OPTIONS="serve.model=models:/bccp@champion serve.port=8000"; tokens in BCCP_SERVE_TOKEN, BCCP_REVIEW_TOKEN
	@bccp serve -- "$$OPTIONS"

export-model: .venv/.run  ## a model for other runtimes: MODEL as for predict, FORMAT=onnx, torchscript or torch_export, OUT=file
	@bccp export-model --model "$(MODEL)" --format "$(FORMAT)" --out "$(OUT)"

wandb-sync: .venv/.run  ## upload to W&B what was recorded offline, with its lineage; OPTIONS="tracking.mlflow_uri=…" where runs had it
	@bccp wandb sync "$$OPTIONS"

dashboard: .venv/.dashboard  ## a dashboard in W&B, of sweeps above all: PROJECT=entity/project
	@bccp wandb dashboard "$(PROJECT)"

contract: .venv/.run  ## rewrite the steps' MLproject files after a change of config.yaml
	@bccp mlproject

clean:  ## the environment and caches of this checkout; never the home
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info

.venv/.run: pyproject.toml constraints.txt
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --editable '.[pipeline]' --constraint constraints.txt
	@touch $@

.venv/.dashboard: .venv/.run
	.venv/bin/python -m pip install --quiet --no-compile --editable '.[dashboard]' --constraint constraints.txt
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --editable '.[dev]' --constraint constraints.txt
	@touch .venv/.run $@
