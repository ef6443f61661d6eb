# An example: the loader in an image of your own that has PyTorch already. From the checkout's root:
#
#   docker build -f docker/training.Dockerfile -t my-training .
#   docker run --rm --gpus all my-training datago-gpu doctor --device cuda
#
# BASE is any image with Python 3.11 or newer, pip and PyTorch. CUDA: cuda12 or cuda13, as PyTorch's wheels have it; the
# driver on the host must fit both. For x86-64 and aarch64 (Grace Hopper).
ARG BASE=pytorch/pytorch:latest
FROM ${BASE}
ARG CUDA=cuda13

# The checkout, of which pip makes a wheel. For a released version, leave out both COPY lines, and ask pip for
# "datago_gpu[...]" instead of the folder.
COPY pyproject.toml README.md LICENSE /tmp/datago_gpu/
COPY datago_gpu /tmp/datago_gpu/datago_gpu

# The constraint keeps the image's own PyTorch, numpy and CUDA packages: pip stops where they do not go together.
RUN python -m pip list --format freeze | grep -iE '^(torch|triton|numpy|pillow|nvidia-)' > /tmp/keep.txt \
 && python -m pip install --no-cache-dir --prefer-binary --constraint /tmp/keep.txt "/tmp/datago_gpu[${CUDA},cloud,table]" \
 && rm -r /tmp/datago_gpu /tmp/keep.txt

# NVIDIA's container runtime: all GPUs unless --gpus says otherwise; "video" is what the JPEG engines need.
# cupy keeps compiled kernels where any user may write.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    CUPY_CACHE_DIR=/tmp/cupy

# A build that ends has a loader that works: this decodes an image on the CPU.
RUN datago-gpu doctor --device cpu

# Your own program comes here:
# COPY train.py /training/
# CMD ["torchrun", "--nproc-per-node", "gpu", "/training/train.py"]
