"""Programs for those who work on datago_gpu: gpu_report/ is behind `make gpu-report` and `make gpu-probe`, docs_site/
is behind `make docs`."""
