# The command `mtsbert` on CPUs alone, and not as root.
#   docker build -t mtsbert .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" mtsbert --help
# The HTTP server. Without a key, everybody who can reach the port can send requests.
#   docker build --target serve -t mtsbert-serve .
#   docker run --rm -p 8000:8000 -e MTSBERT_API_KEY -v "$PWD:/data" mtsbert-serve --model runs/quickstart
FROM python:3.11-slim AS base

# PyTorch's index of wheels without CUDA, given with --build-arg, makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL
# Models from the Hub go where every user may write.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HF_HOME=/tmp/huggingface

WORKDIR /mtsbert
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY . ./
RUN pip install .

FROM base AS serve
RUN pip install '.[serve]'
USER 1000:1000
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["mtsbert", "serve", "--host", "0.0.0.0"]

# The last one is what is built without --target.
FROM base
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["mtsbert"]
