# The benchmark in a container. By default for a CPU, and it runs the smoke job:
#   docker build -t t2i-backdoor-bench .
#   docker run --rm -v "$PWD/results:/bench/results" t2i-backdoor-bench
# For NVIDIA GPUs:
#   docker build --build-arg TORCH=cu128 -t t2i-backdoor-bench:cuda .
#   docker run --rm --gpus all -v "$PWD/results:/bench/results" t2i-backdoor-bench:cuda run --device cuda
FROM python:3.11-slim

# cpu, or a version of CUDA as PyTorch's own index names it: cu126, cu128, ...
ARG TORCH=cpu
# the newest that fits the CUDA of the argument:
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}"

# what the wheel is made of
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY bench bench
COPY attacks attacks
COPY defenses defenses
COPY metrics metrics
RUN pip install --no-cache-dir . && rm -rf build

# Any user may run it (--user), also one without a name: what is written goes to folders that are
# open to all.
WORKDIR /bench
RUN mkdir results && chmod 777 /bench results
ENV HOME=/bench USER=bench
USER 1000

ENTRYPOINT ["t2i-backdoor-bench"]
CMD ["run", "--scale", "smoke"]
