// Upscale a picture with OpenCV: upscale_mat MODEL IN OUT. OpenCV reads and writes the files.
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <sr_deploy.h>

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

// Deleter, so that a handle is closed automatically.
struct Close {
    void operator()(sr_upscaler *upscaler) const { sr_close(upscaler); }
};
using Upscaler = std::unique_ptr<sr_upscaler, Close>;

void check(sr_status status, const sr_upscaler *upscaler)
{
    if (status != SR_OK)
        throw std::runtime_error(sr_last_error(upscaler));
}

Upscaler open(const std::string &model)
{
    sr_upscaler *opened = nullptr;
    check(sr_open(model.c_str(), nullptr, &opened), nullptr);
    return Upscaler(opened);
}

// View the pixels of `mat` without a copy. The stride also fits a region of a larger picture, whose rows have gaps.
sr_image view(const cv::Mat &mat)
{
    sr_image image{};
    image.data = mat.data;
    image.bytes = static_cast<size_t>(mat.dataend - mat.data);
    image.stride = mat.step;
    image.width = mat.cols;
    image.height = mat.rows;
    switch (mat.depth()) {
    case CV_8U: image.depth = SR_U8; break;
    case CV_16U: image.depth = SR_U16; break;
    case CV_32F: image.depth = SR_F32; break;
    default: throw std::runtime_error("the Mat must have 8 bits, 16 bits or floats");
    }
    switch (mat.channels()) {
    case 1: image.layout = SR_GREY; break;
    case 3: image.layout = SR_BGR; break;
    case 4: image.layout = SR_BGRA; break;
    default: throw std::runtime_error("the Mat must have 1, 3 or 4 channels");
    }
    return image;
}

cv::Mat upscale(const Upscaler &upscaler, const cv::Mat &small)
{
    std::int32_t width = 0, height = 0;
    check(sr_output_size(upscaler.get(), small.cols, small.rows, &width, &height), upscaler.get());
    cv::Mat large(height, width, small.type());
    const sr_image input = view(small), output = view(large);
    check(sr_upscale(upscaler.get(), &input, &output), upscaler.get());
    return large;
}

} // namespace

int main(int count, char **arguments)
{
    if (count != 4) {
        std::cerr << "usage: " << arguments[0] << " MODEL IN OUT\n";
        return 2;
    }
    try {
        const Upscaler upscaler = open(arguments[1]);
        const cv::Mat small = cv::imread(arguments[2], cv::IMREAD_UNCHANGED);
        if (small.empty())
            throw std::runtime_error(std::string("cannot read ") + arguments[2]);
        if (!cv::imwrite(arguments[3], upscale(upscaler, small)))
            throw std::runtime_error(std::string("cannot write ") + arguments[3]);
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
